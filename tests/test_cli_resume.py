# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --output --resume`: whatever ends a run, nothing is lost and nothing is doubled."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_process import start
from sound_folder import fill_folder
from typer.testing import CliRunner

from ced_cli.app import app
from ced_cli.formats import Format, Record, read_records
from ced_model import CedConfig, CedForAudioClassification

Run = Callable[..., Any]
REPOSITORY = Path(__file__).parent.parent
FORMATS = ["json", "jsonl", "csv", "parquet"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 150 files, every fiftieth of them broken."""
    return fill_folder(tmp_path_factory.mktemp("many"), 150, (0, 50, 149), (1000, 90000))


@pytest.fixture(scope="module")
def uninterrupted(many: Path, random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The records of `many` from a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("uninterrupted") / "tags.jsonl"
    arguments = ["tag", many, "--model", random_model, "--output", output]
    assert CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code == 1
    return list(read_records(str(output), Format.JSONL, events=False))


@pytest.fixture
def few(tmp_path: Path, clip: Path) -> list[Path]:
    """Four short files."""
    (tmp_path / "few").mkdir()
    paths = [tmp_path / "few" / f"{name}.wav" for name in "abcd"]
    for path in paths:
        path.write_bytes(clip.read_bytes())
    return paths


@pytest.fixture
def ced(random_model: Path) -> Run:
    """Runs `ced tag` in this process: `ced(*arguments, code=expected exit code)`."""

    def run(*arguments: Any, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(each) for each in ("tag", "--model", random_model, *arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.stderr
        return result

    return run


def assert_same(output: Path, expected: list[Record]) -> None:
    """`output` is whole, holds the expected records in their order, and nothing is left beside it."""
    records = list(read_records(str(output), Format(output.suffix[1:]), events=False))
    assert [record["file"] for record in records] == [record["file"] for record in expected]
    for record, other in zip(records, expected, strict=True):
        assert record.keys() == other.keys() and record.get("error") == other.get("error")
        assert record.get("duration_s") == other.get("duration_s")
        tags, others = record.get("tags", []), other.get("tags", [])
        assert [tag["score"] for tag in tags] == pytest.approx([tag["score"] for tag in others], abs=1e-5)
        if len(tags) > 1 and min(-np.diff([tag["score"] for tag in others])) > 1e-5:
            assert [tag["label"] for tag in tags] == [tag["label"] for tag in others]
    beside = {path.name for path in output.parent.iterdir() if path.name.startswith(output.name)}
    assert beside == {output.name}


def journal_of(output: Path) -> Path:
    return output.with_name(output.name + ".journal")


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# Killed


@pytest.mark.parametrize("seed", range(4))
def test_runs_killed_at_random_moments_end_as_if_undisturbed(
    many: Path, random_model: Path, uninterrupted: list[Record], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    output = tmp_path / f"tags.{FORMATS[seed]}"
    arguments = ["tag", many, "--model", random_model, "--output", output, "--resume"]
    kills = 0
    for _ in range(5):
        process = start(arguments)
        before = lines_in(journal_of(output))
        enough = before + rng.randrange(0, 20)
        while process.is_alive() and lines_in(journal_of(output)) < enough:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:  # a slow test and a fast run: it was through before
            break
        kills += 1
        assert not output.exists() and lines_in(journal_of(output)) >= before
    assert kills
    process = start(arguments)
    process.join()
    assert process.exitcode == 1  # of the broken files
    assert_same(output, uninterrupted)


def test_the_real_program_killed_and_resumed(
    many: Path, random_model: Path, uninterrupted: list[Record], tmp_path: Path
) -> None:
    output = tmp_path / "tags.csv"
    command = [sys.executable, "-m", "ced_cli", "tag", many, "--model", random_model, "--output", output, "--resume"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and lines_in(journal_of(output)) < 20:
            time.sleep(0.002)
        process.kill()
    kept = lines_in(journal_of(output)) - 2
    assert not output.exists() and 18 <= kept < len(uninterrupted)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    said = done.stderr.splitlines()
    assert said[0].startswith(f"model: {random_model}") and said[-1].endswith(" 3 failed")
    assert f"{kept - 1} results of {output} are kept" in said[1]  # the first file failed and is tried again
    assert_same(output, uninterrupted)


def test_a_journal_cut_at_any_byte_is_taken_up(
    many: Path, ced: Run, uninterrupted: list[Record], tmp_path: Path, monkeypatch: Any
) -> None:
    first = sorted(many.iterdir())[1:7]
    expected = uninterrupted[1:7]
    output = tmp_path / "tags.jsonl"

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        ced(*first, "--output", output, code=130)
    whole = journal_of(output).read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 8
    positions = {0, 1, *ends, *(end - 1 for end in ends), *random.Random(0).sample(range(len(whole)), 15)}
    for position in sorted(positions):
        journal_of(output).write_bytes(whole[:position])
        ced(*first, "--output", output, "--resume")
        assert_same(output, expected)
        output.unlink()


def test_killed_between_the_last_two_steps(few: list[Path], ced: Run, tmp_path: Path, monkeypatch: Any) -> None:
    output = tmp_path / "tags.json"

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", interrupt)
        ced(*few, "--output", output, code=130)
    assert output.exists() and journal_of(output).exists()
    expected = json.loads(output.read_text())
    ced(*few, "--output", output, "--resume")
    assert_same(output, expected)


# Interrupted, out of space


def test_ctrl_c_keeps_the_journal_and_says_how_to_go_on(
    many: Path, random_model: Path, ced: Run, uninterrupted: list[Record], tmp_path: Path
) -> None:
    output = tmp_path / "tags.jsonl"
    arguments = ["tag", many, "--model", random_model, "--output", output]
    process = start(arguments, stdout=tmp_path / "stdout", stderr=tmp_path / "stderr")
    while process.is_alive() and lines_in(journal_of(output)) < 10:
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    kept = lines_in(journal_of(output)) - 2
    said = (tmp_path / "stderr").read_text().splitlines()
    assert process.exitcode == 130 and 8 <= kept < len(uninterrupted)
    # The signal may come right after a line was written and before it was counted.
    assert said[-1] in {
        f"ced: interrupted; {count} results so far in {journal_of(output)}: go on with --resume"
        for count in (kept - 1, kept)
    }
    assert (tmp_path / "stdout").read_bytes() == b"" and "Traceback" not in "".join(said)
    ced(many, "--output", output, "--resume", code=1)
    assert_same(output, uninterrupted)


def test_ctrl_c_leaves_whole_json_on_stdout(many: Path, random_model: Path, tmp_path: Path) -> None:
    arguments = ["tag", many, "--model", random_model, "--json"]
    process = start(arguments, stdout=tmp_path / "stdout", stderr=tmp_path / "stderr")
    while process.is_alive() and lines_in(tmp_path / "stdout") < 10:
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    records = json.loads((tmp_path / "stdout").read_text())
    assert 9 <= len(records) < 150
    assert (tmp_path / "stderr").read_text().splitlines()[-1].startswith("ced: interrupted after ")


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_one_line_and_the_run_can_go_on(
    many: Path, random_model: Path, ced: Run, uninterrupted: list[Record], tmp_path: Path, format: str
) -> None:
    output = tmp_path / f"tags.{format}"
    arguments = ["tag", many, "--model", random_model, "--output", output]
    process = start(arguments, stderr=tmp_path / "stderr", max_file_size=30_000)
    process.join()
    said = (tmp_path / "stderr").read_text().splitlines()
    assert process.exitcode == 1 and not output.exists()
    assert said[-1].startswith(f"ced: {journal_of(output)}: File too large; ") and said[-1].endswith("with --resume")
    assert "Traceback" not in "".join(said)
    assert 10 < lines_in(journal_of(output)) < 150 and journal_of(output).stat().st_size == 30_000
    ced(many, "--output", output, "--resume", code=1)
    assert_same(output, uninterrupted)


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_is_full_at_the_end_loses_nothing(
    few: list[Path], random_model: Path, ced: Run, tmp_path: Path, monkeypatch: Any, format: str
) -> None:
    output = tmp_path / f"tags.{format}"

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        result = ced(*few, "--output", output, code=1)
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"ced: {output}: No space left on device; 4 results so far in {journal_of(output)}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few", journal_of(output).name]
    result = ced(*few, "--output", output, "--resume")
    assert result.stderr == f"4 results of {output} are kept\n"  # no model was needed any more
    assert len(list(read_records(str(output), Format(format), events=False))) == 4


# Started again


@pytest.mark.parametrize("format", FORMATS)
def test_a_finished_output_takes_up_new_files_and_retries_failed_ones(
    few: list[Path], ced: Run, tmp_path: Path, format: str
) -> None:
    output, reference = tmp_path / f"tags.{format}", tmp_path / "all.jsonl"
    ced(*few, "--output", reference)
    expected = list(read_records(str(reference), Format.JSONL, events=False))
    good = few[2].read_bytes()
    few[2].write_bytes(b"")
    ced(few[1], few[2], "--output", output, code=1)
    before = output.read_bytes()
    ced(few[1], few[2], "--output", output, "--resume", code=1)
    assert output.read_bytes() == before or format == "parquet"
    few[2].write_bytes(good)
    result = ced(*few, "--output", output, "--resume")
    assert f"1 results of {output} are kept, made with whatever model" in result.stderr
    assert_same(output, expected)

    before = output.read_bytes()
    result = ced(*few, "--output", output, "--resume")
    assert output.read_bytes() == before and "4 results" in result.stderr and "model: " not in result.stderr
    ced(few[3], "--output", output, "--resume")  # what is not asked for any more stays
    assert_same(output, expected)


def test_existing_results_are_not_overwritten_unasked(few: list[Path], ced: Run, tmp_path: Path) -> None:
    output = tmp_path / "tags.jsonl"
    ced(few[0], "--output", output)
    before = output.read_bytes()
    assert "add --resume to keep its results, or --overwrite" in ced(few[1], "--output", output, code=2).stderr
    assert output.read_bytes() == before
    ced(few[1], "--output", output, "--overwrite")
    assert [record["file"] for record in read_records(str(output), Format.JSONL, False)] == [str(few[1])]
    journal_of(output).write_bytes(b"")
    assert "unfinished run" in ced(few[1], "--output", output, code=2).stderr
    ced(few[2], "--output", output, "--overwrite")
    assert [record["file"] for record in read_records(str(output), Format.JSONL, False)] == [str(few[2])]


@pytest.fixture
def unfinished(few: list[Path], ced: Run, tmp_path: Path, monkeypatch: Any) -> Path:
    """An output of three of four files; only its journal exists."""
    output = tmp_path / "tags.jsonl"

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        ced(*few[:3], "--output", output, "--top-k", "3", code=130)
    return output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--top-k", "4"], "another --top-k: 3 then, 4 now"),
        ([], "another --top-k: 3 then, none now"),
        (["--top-k", "3", "--threshold", "0.1"], "another --threshold: none then, 0.1 now"),
        (["--top-k", "3", "--labels", "Dog"], 'another --labels: none then, ["Dog"] now'),
        (["--top-k", "3", "--window", "1"], "another --window"),
        (["--top-k", "3", "--average", "max"], "another --average"),
        (["--top-k", "3", "--channel", "1"], "another --channel: none then, 1 now"),
        (["--top-k", "3", "--format", "csv"], 'another --format: "jsonl" then, "csv" now'),
    ],
)
def test_other_options_cannot_go_on_with_a_run(
    unfinished: Path, few: list[Path], ced: Run, arguments: list[str], expected: str
) -> None:
    before = journal_of(unfinished).read_bytes()
    result = ced(*few, "--output", unfinished, "--resume", *arguments, code=2)
    assert expected in result.stderr and result.stderr.count("\n") == 1
    assert journal_of(unfinished).read_bytes() == before


def test_another_model_cannot_go_on_with_a_run_but_a_moved_one_can(
    unfinished: Path, few: list[Path], ced: Run, random_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    CedForAudioClassification(CedConfig(embed_dim=48, depth=2, num_heads=3)).save_pretrained(other)
    before = journal_of(unfinished).read_bytes()
    options = ["--output", unfinished, "--top-k", "3", "--resume"]
    result = ced(*few, *options, "--model", other, code=2)
    assert "begun with another model" in result.stderr.splitlines()[-1]
    assert journal_of(unfinished).read_bytes() == before
    shutil.copytree(random_model, tmp_path / "moved")
    ced(*few, *options, "--model", tmp_path / "moved", "--batch-size", "2")
    assert len(list(read_records(str(unfinished), Format.JSONL, False))) == 4


def test_two_runs_cannot_write_to_one_output(unfinished: Path, few: list[Path], ced: Run) -> None:
    import fcntl

    with open(journal_of(unfinished), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = ced(*few, "--output", unfinished, "--top-k", "3", "--resume", code=1)
    assert "another run is writing to it" in result.stderr
    ced(*few, "--output", unfinished, "--top-k", "3", "--resume")


def test_a_foreign_journal_is_left_alone(few: list[Path], ced: Run, tmp_path: Path) -> None:
    output = tmp_path / "tags.jsonl"
    for content in (b"hello\n", b'{"a": 1}\n', b'["file"]\n', b'{"ced_journal": 99}\n'):
        journal_of(output).write_bytes(content)
        result = ced(*few, "--output", output, "--resume", code=2)
        assert "--overwrite" in result.stderr and result.stderr.count("\n") == 1
        assert journal_of(output).read_bytes() == content


def test_a_link_as_output_stays_a_link(few: list[Path], ced: Run, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "tags.jsonl").symlink_to(tmp_path / "real" / "there.jsonl")
    ced(*few, "--output", tmp_path / "tags.jsonl")
    assert (tmp_path / "tags.jsonl").is_symlink()
    assert_same(
        tmp_path / "real" / "there.jsonl", list(read_records(str(tmp_path / "tags.jsonl"), Format.JSONL, False))
    )


def test_standard_input_cannot_be_resumed(ced: Run, tmp_path: Path) -> None:
    result = ced("-", "--output", tmp_path / "tags.jsonl", "--resume", code=2)
    assert "standard input" in result.stderr and os.listdir(tmp_path) == []
