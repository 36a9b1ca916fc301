# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --output --resume`: no interruption loses or duplicates results."""

import csv
import io
import json
import math
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

from ced_model import CedConfig, CedForAudioClassification
from ced_model.cli.app import app
from ced_model.messages import RunError
from ced_model.records import Record
from ced_model.unfinished import open_locked
from ced_model.writers import Format, read_records, write_records
from ced_model.writers.json import json_line

Run = Callable[..., Any]
REPOSITORY = Path(__file__).parents[2]
FORMATS = ["json", "jsonl", "csv", "parquet"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 150 files, every fiftieth of them broken."""
    return fill_folder(tmp_path_factory.mktemp("many"), 150, (0, 50, 149), (1000, 90000))


@pytest.fixture(scope="module")
def uninterrupted(many: Path, random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The records of `many` from a run without interruption."""
    output = tmp_path_factory.mktemp("uninterrupted") / "tags.jsonl"
    arguments = ["tag", many, "--model", random_model, "--output", output]
    assert CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code == 1
    return list(read_records(str(output), Format.JSONL))


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
    """`output` is complete and has the expected records in order, and there are no other files next to it."""
    records = list(read_records(str(output), Format(output.suffix[1:])))
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
        if process.exitcode != -signal.SIGKILL:  # the run ended before it was killed
            break
        kills += 1
        assert not output.exists() and lines_in(journal_of(output)) >= before
    assert kills
    process = start(arguments)
    process.join()
    assert process.exitcode == 1  # because of the broken files
    assert_same(output, uninterrupted)


def test_the_real_program_killed_and_resumed(
    many: Path, random_model: Path, uninterrupted: list[Record], tmp_path: Path
) -> None:
    output = tmp_path / "tags.csv"
    command = [sys.executable, "-m", "ced_model", "tag", many, "--model", random_model, "--output", output, "--resume"]
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
    assert f"{kept - 1} results of {output} are kept" in said[1]  # the first file failed and is retried
    assert_same(output, uninterrupted)


def test_a_journal_truncated_at_any_byte_is_resumed(
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


def test_ctrl_c_keeps_the_journal_and_prints_how_to_continue(
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
    # The signal may arrive after a line was written and before it was counted.
    assert said[-1] in {
        f"ced: interrupted; {count} results so far in {journal_of(output)}: continue with --resume"
        for count in (kept - 1, kept)
    }
    assert (tmp_path / "stdout").read_bytes() == b"" and "Traceback" not in "".join(said)
    ced(many, "--output", output, "--resume", code=1)
    assert_same(output, uninterrupted)


def test_ctrl_c_leaves_complete_json_on_stdout(many: Path, random_model: Path, tmp_path: Path) -> None:
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
    assert (tmp_path / "stderr").read_text().splitlines()[-1].startswith("ced: interrupted; ")


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_one_line_and_the_run_can_be_continued(
    many: Path, random_model: Path, ced: Run, uninterrupted: list[Record], tmp_path: Path, format: str
) -> None:
    output = tmp_path / f"tags.{format}"
    arguments = ["tag", many, "--model", random_model, "--output", output]
    process = start(arguments, stderr=tmp_path / "stderr", max_file_size=30_000)
    process.join()
    said = (tmp_path / "stderr").read_text().splitlines()
    assert process.exitcode == 1 and not output.exists()
    assert said[-1].startswith(f"ced: {journal_of(output)}: File too large; ") and said[-1].endswith(
        "continue with --resume"
    )
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
    assert result.stderr == f"4 results of {output} are kept\n"  # no model is loaded
    assert len(list(read_records(str(output), Format(format)))) == 4


# Started again


@pytest.mark.parametrize("format", FORMATS)
def test_resuming_a_finished_output_adds_new_files_and_retries_failed_ones(
    few: list[Path], ced: Run, tmp_path: Path, format: str
) -> None:
    output, reference = tmp_path / f"tags.{format}", tmp_path / "all.jsonl"
    ced(*few, "--output", reference)
    expected = list(read_records(str(reference), Format.JSONL))
    good = few[2].read_bytes()
    few[2].write_bytes(b"")
    ced(few[1], few[2], "--output", output, code=1)
    before = output.read_bytes()
    ced(few[1], few[2], "--output", output, "--resume", code=1)
    assert output.read_bytes() == before or format == "parquet"
    few[2].write_bytes(good)
    result = ced(*few, "--output", output, "--resume")
    assert f"1 result of {output} is kept" in result.stderr
    assert_same(output, expected)

    before = output.read_bytes()
    result = ced(*few, "--output", output, "--resume")
    assert output.read_bytes() == before and "4 results" in result.stderr and "model: " not in result.stderr
    ced(few[3], "--output", output, "--resume")  # results of other inputs are kept
    assert_same(output, expected)


def test_existing_results_are_overwritten_only_on_request(few: list[Path], ced: Run, tmp_path: Path) -> None:
    output = tmp_path / "tags.jsonl"
    ced(few[0], "--output", output)
    before = output.read_bytes()
    assert "use --resume to keep its results, or --overwrite" in ced(few[1], "--output", output, code=2).stderr
    assert output.read_bytes() == before
    ced(few[1], "--output", output, "--overwrite")
    assert [record["file"] for record in read_records(str(output), Format.JSONL)] == [str(few[1])]
    journal_of(output).write_bytes(b"")
    assert "unfinished run" in ced(few[1], "--output", output, code=2).stderr
    ced(few[2], "--output", output, "--overwrite")
    assert [record["file"] for record in read_records(str(output), Format.JSONL)] == [str(few[2])]
    others = ced(few[1], "--output", output, "--resume").stderr
    assert f"the results of other inputs in {output} are kept\n" in others


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
        (["--top-k", "4"], "--top-k 4: expected 3, as when "),
        ([], "--top-k is not given: expected 3, as when "),
        (["--top-k", "3", "--threshold", "0.1"], "--threshold 0.1: expected not given, as when "),
        (["--top-k", "3", "--labels", "Dog"], "--labels ['Dog']: expected not given"),
        (["--top-k", "3", "--window", "1"], "--window 1: expected"),
        (["--top-k", "3", "--average", "max"], "--average max: expected"),
        (["--top-k", "3", "--channel", "1"], "--channel 1: expected mix, as when "),
        (["--top-k", "3", "--format", "csv"], "--format csv: expected jsonl"),
    ],
)
def test_a_run_cannot_be_continued_with_other_options(
    unfinished: Path, few: list[Path], ced: Run, arguments: list[str], expected: str
) -> None:
    before = journal_of(unfinished).read_bytes()
    result = ced(*few, "--output", unfinished, "--resume", *arguments, code=2)
    assert expected in result.stderr and result.stderr.count("\n") == 1
    assert journal_of(unfinished).read_bytes() == before


def test_a_run_cannot_be_continued_with_another_model_but_with_a_moved_one(
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
    assert len(list(read_records(str(unfinished), Format.JSONL))) == 4


def test_two_runs_cannot_write_to_one_output(unfinished: Path, few: list[Path], ced: Run) -> None:
    import fcntl

    with open(journal_of(unfinished), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = ced(*few, "--output", unfinished, "--top-k", "3", "--resume", code=1)
    assert "is in use by another run" in result.stderr
    ced(*few, "--output", unfinished, "--top-k", "3", "--resume")


def test_a_journal_of_another_program_is_not_changed(few: list[Path], ced: Run, tmp_path: Path) -> None:
    output = tmp_path / "tags.jsonl"
    for content in (b"hello\n", b'{"a": 1}\n', b'["file"]\n', b'{"ced_journal": 99}\n'):
        journal_of(output).write_bytes(content)
        result = ced(*few, "--output", output, "--resume", code=2)
        assert "use --overwrite" in result.stderr and result.stderr.count("\n") == 1
        assert journal_of(output).read_bytes() == content


def test_a_link_as_output_stays_a_link(few: list[Path], ced: Run, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "tags.jsonl").symlink_to(tmp_path / "real" / "there.jsonl")
    ced(*few, "--output", tmp_path / "tags.jsonl")
    assert (tmp_path / "tags.jsonl").is_symlink()
    assert_same(tmp_path / "real" / "there.jsonl", list(read_records(str(tmp_path / "tags.jsonl"), Format.JSONL)))


def test_standard_input_cannot_be_resumed(ced: Run, tmp_path: Path) -> None:
    result = ced("-", "--output", tmp_path / "tags.jsonl", "--resume", code=2)
    assert "standard input" in result.stderr and os.listdir(tmp_path) == []


# Changed outputs and invalid journals


def tagged(*names: Any, score: float = 0.5) -> list[Record]:
    """Invented results of files, with three tags each."""
    labels = ("Dog", "Katze é", "=1+1")
    return [
        {
            "file": str(name),
            "duration_s": 0.5,
            "tags": [{"label": label, "score": score / 2**i, "index": i} for i, label in enumerate(labels)],
        }
        for name in names
    ]


def write(output: Path, records: list[Record], **options: Any) -> bytes:
    with open(output, "wb") as file:
        write_records(records, file, Format(output.suffix[1:]), **options)
    return output.read_bytes()


def by_column(column: str, descending: bool = False) -> Callable[[bytes], bytes]:
    def sort(content: bytes) -> bytes:
        head, *rows = csv.reader(io.StringIO(content.decode()))
        rows.sort(key=lambda row: row[head.index(column)], reverse=descending)
        return as_csv([head, *rows])

    return sort


def as_csv(rows: list[list[str]], **options: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", **options).writerows(rows)
    return text.getvalue().encode()


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


def decimal_commas(content: bytes) -> bytes:
    return as_csv([[cell.replace(".", ",") for cell in row] for row in rows_of(content)])


REFUSED: dict[str, Callable[[bytes], bytes]] = {
    "csv, sorted by score": by_column("score", descending=True),
    "csv, sorted by label": by_column("label"),
    "csv, sorted by rank": by_column("rank"),
    "csv, columns in another order": lambda content: as_csv([row[::-1] for row in rows_of(content)]),
    "csv, a column more": lambda content: as_csv([[*row, "note"] for row in rows_of(content)]),
    "csv, a cell more": lambda content: content.replace(b",0.5,", b",0.5,,", 1),
    "csv, a column less": lambda content: as_csv([row[:-1] for row in rows_of(content)]),
    "csv, a row less": lambda content: b"".join(content.splitlines(True)[:2] + content.splitlines(True)[3:]),
    "csv, the first row of a file less": lambda content: b"".join(
        [content.split(b"\n")[0] + b"\n", *content.splitlines(True)[2:]]
    ),
    "csv, a row twice": lambda content: content + content.splitlines(True)[-1],
    "csv, all rows twice": lambda content: content + content.split(b"\n", 1)[1],
    "csv, no head": lambda content: content.split(b"\n", 1)[1],
    "csv, semicolons": lambda content: as_csv(rows_of(content), delimiter=";"),
    "csv, decimal commas": decimal_commas,
    "csv, Latin-1": lambda content: content.decode().encode("latin-1"),
    "csv, UTF-16": lambda content: content.decode().encode("utf-16"),
    "csv, cut in a row": lambda content: content[:-12],
    "csv, a score of text": lambda content: content.replace(b"0.25", b"high"),
    "csv, a score of nan": lambda content: content.replace(b"0.25", b"nan"),
    "csv, a score without end": lambda content: content.replace(b"0.25", b"1e999"),
    "csv, an index with a fraction": lambda content: content.replace(b",1,0.25", b",1.5,0.25"),
    "csv, an error beside tags": lambda content: content.replace(b",0.5,\n", b",0.5,broken\n", 1),
    "csv, another length in one row": lambda content: content.replace(b",0.5,2,", b",0.7,2,", 1),
    "csv, nothing": lambda content: b"",
    "jsonl, a line twice": lambda content: content + content.splitlines(True)[0],
    "jsonl, NaN": lambda content: content.replace(b"0.25", b"NaN", 1),
    "jsonl, a number without end": lambda content: content.replace(b"0.25", b"1e999", 1),
    "jsonl, a key more": lambda content: content.replace(b'"index"', b'"note": 1, "index"', 1),
    "jsonl, a key twice": lambda content: content.replace(b'"tags"', b'"tags": [], "tags"', 1),
    "jsonl, text for a number": lambda content: content.replace(b"0.25", b'"0.25"', 1),
    "jsonl, null for tags": lambda content: b'{"file": "a", "duration_s": 1, "tags": null}\n',
    "jsonl, cut": lambda content: content[:-20],
    "jsonl, an empty line": lambda content: content + b"\n",
    "jsonl, many brackets": lambda content: b"[" * 100_000 + b"\n",
    "json, an object": lambda content: b'{"file": "a", "error": "b"}',
    "json, a record twice": lambda content: json.dumps(2 * json.loads(content)).encode(),
    "json, cut": lambda content: content[:-10],
    "json, null": lambda content: b"null",
    "parquet, cut": lambda content: content[:-10],
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_output_with_changes_that_could_be_lost_is_refused_and_not_changed(
    few: list[Path], ced: Run, tmp_path: Path, case: str
) -> None:
    output = tmp_path / f"tags.{case.partition(',')[0]}"
    output.write_bytes(REFUSED[case](write(output, tagged(*few[:3]))))
    before = output.read_bytes()
    result = ced(*few, "--output", output, "--resume", code=2)
    assert "are not as they were written: " in result.stderr and result.stderr.count("\n") == 1
    assert output.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["few", output.name]


@pytest.mark.parametrize("change", ["sorted", "twice", "float index", "a column more", "NaN"])
def test_a_parquet_file_that_another_program_wrote_is_refused(
    few: list[Path], ced: Run, tmp_path: Path, change: str
) -> None:
    import pyarrow
    from pyarrow import parquet

    output = tmp_path / "tags.parquet"
    write(output, tagged(*few[:3]))
    table = parquet.read_table(output)
    scores = pyarrow.array([math.nan] * len(table))
    changed = {
        "sorted": lambda: table.sort_by("score"),
        "twice": lambda: pyarrow.concat_tables([table, table]),
        "float index": lambda: table.set_column(4, "index", table["index"].cast("double")),
        "a column more": lambda: table.append_column("note", table["label"]),
        "NaN": lambda: table.set_column(5, "score", scores),
    }
    parquet.write_table(changed[change](), output)
    before = output.read_bytes()
    assert "cannot be resumed: " in ced(*few, "--output", output, "--resume", code=2).stderr
    assert output.read_bytes() == before


UNDERSTOOD: dict[str, Callable[[bytes], bytes]] = {
    "csv, with a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "csv, with the line ends of Windows": lambda content: content.replace(b"\n", b"\r\n"),
    "csv, all cells in quotes": lambda content: as_csv(rows_of(content), quoting=csv.QUOTE_ALL),
    "csv, files in another order": lambda content: b"".join(
        [*content.splitlines(True)[:1], *content.splitlines(True)[4:], *content.splitlines(True)[1:4]]
    ),
    "csv, without the last line end": lambda content: content[:-1],
    "jsonl, with a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "json, indented": lambda content: json.dumps(json.loads(content), indent=2).encode(),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_an_output_saved_by_another_program_without_changes_can_be_continued(
    few: list[Path], ced: Run, tmp_path: Path, case: str
) -> None:
    output = tmp_path / f"tags.{case.partition(',')[0]}"
    made_up = tagged(*few[:3])
    output.write_bytes(UNDERSTOOD[case](write(output, made_up)))
    ced(*few, "--output", output, "--resume")
    records = list(read_records(str(output), Format(output.suffix[1:])))
    assert records[:3] == made_up and [record["file"] for record in records] == list(map(str, few))


def header(**options: Any) -> bytes:
    lasting = {"format": "jsonl", "events": False, "channel": "mix"} | options
    return json.dumps({"ced_journal": 1, "options": lasting}).encode() + b"\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"null\n",
        b"[]\n",
        b"3\n",
        b"\x00\xff\x80\n",
        b"[" * 100_000 + b"\n",
        b'{"ced_journal": 1}\n',
        b'{"ced_journal": 1, "options": null}\n',
        b'{"ced_journal": 1, "options": ["format"]}\n',
        header() + b"null\n",
        header() + b'{"file": 3, "error": "x"}\n',
        header() + b'{"file": "a"}\n',
        header() + b'{"file": "a", "duration_s": "long", "tags": []}\n',
        header() + b'{"file": "a", "duration_s": 1, "tags": {}}\n',
        header() + b'{"file": "a", "duration_s": 1, "tags": [1]}\n',
        header() + b'{"file": "a", "duration_s": 1, "events": []}\n',
        header() + b'{"file": "a", "duration_s": NaN, "tags": []}\n',
        header() + b'{"weights": 5}\n',
        header() + b'{"wieghts": "a"}\n',
        header() + b"x" * 1_000_000 + b"\n",
    ],
    ids=range(19),
)
def test_a_journal_with_invalid_contents_is_one_line_and_not_changed(
    few: list[Path], ced: Run, tmp_path: Path, lines: bytes
) -> None:
    output = tmp_path / "tags.jsonl"
    journal_of(output).write_bytes(lines)
    result = ced(*few, "--output", output, "--resume", code=2)
    assert result.stderr == f"ced: {journal_of(output)} is damaged: remove it or use --overwrite\n"
    assert journal_of(output).read_bytes() == lines and not output.exists()


def test_only_regular_files_are_read_as_journals(few: list[Path], ced: Run, tmp_path: Path) -> None:
    output = tmp_path / "tags.jsonl"
    os.mkfifo(journal_of(output))
    assert "a regular file" in ced(*few, "--output", output, "--resume", code=2).stderr
    assert "a regular file" in ced(*few, "--output", output, "--overwrite", code=2).stderr
    assert "unfinished run" in ced(*few, "--output", output, code=2).stderr


# Changes between a check and the write


def interrupt_at_the_end(patch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Runs a function when all results are complete, just before the output is written."""

    def once(_: int) -> None:
        patch.undo()
        act()

    patch.setattr(os, "fsync", once)


def test_an_output_that_appears_during_the_run_stays_and_no_result_is_lost(
    few: list[Path], ced: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tags.jsonl"
    mine = json_line(tagged("other.wav")[0])
    interrupt_at_the_end(monkeypatch, lambda: output.write_bytes(mine))
    result = ced(*few, "--output", output, code=1)
    assert result.stderr.splitlines()[-1] == (
        f"ced: {output} was written by another program in the meantime and is left as it is: move it away;"
        f" 4 results so far in {journal_of(output)}: continue with --resume"
    )
    assert output.read_bytes() == mine
    refused = ced(*few, "--output", output, "--resume", code=2)  # without moving the output
    assert f"{output} has another result for 'other.wav' than {journal_of(output)}" in refused.stderr
    assert output.read_bytes() == mine
    output.rename(tmp_path / "mine.jsonl")
    assert ced(*few, "--output", output, "--resume").stderr == f"4 results of {output} are kept\n"
    assert len(output.read_bytes().splitlines()) == 4 and not journal_of(output).exists()


def test_an_output_that_is_edited_during_the_run_that_resumes_it_stays(
    few: list[Path], ced: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tags.jsonl"
    write(output, tagged(*few[:3]))
    edited = json_line(tagged(few[0], score=0.9)[0])
    real, calls = os.fsync, []

    def second(descriptor: int) -> None:  # the first call is for the journal
        calls.append(descriptor)
        real(descriptor)
        if len(calls) == 2:
            output.write_bytes(edited)

    monkeypatch.setattr(os, "fsync", second)
    result = ced(*few, "--output", output, "--resume", code=1)
    assert "was written by another program in the meantime" in result.stderr
    assert output.read_bytes() == edited and lines_in(journal_of(output)) == 6
    assert "has another result" in ced(*few, "--output", output, "--resume", code=2).stderr


def test_a_run_that_begins_while_another_loads_its_model_loses_nothing(
    few: list[Path], ced: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tags.jsonl"
    theirs = (
        header() + b'{"weights": "a", "engine": "onnx", "compute_type": "float32"}\n' + json_line(tagged(few[0])[0])
    )

    made_by = {"model": "b", "weights": "b", "engine": "onnx", "compute_type": "float32"}

    def begin(tagger: Any) -> dict[str, str]:
        journal_of(output).write_bytes(theirs)
        return made_by

    monkeypatch.setattr("ced_model.records.made_by", begin)
    result = ced(*few, "--output", output, code=1)
    expected = f"{journal_of(output)}: another run has started in the meantime: wait until it ends, or choose another"
    assert result.stderr.splitlines()[-1] == f"ced: {expected} output"
    assert journal_of(output).read_bytes() == theirs
    journal_of(output).unlink()

    def write_output(tagger: Any) -> dict[str, str]:
        output.write_bytes(b"mine")
        return made_by

    monkeypatch.setattr("ced_model.records.made_by", write_output)
    assert "written by another program" in ced(*few, "--output", output, code=1).stderr
    assert output.read_bytes() == b"mine" and not journal_of(output).exists()


def test_a_journal_is_locked_until_it_is_removed(
    unfinished: Path, few: list[Path], ced: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.unlink
    seen = []

    def unlink(path: Any, *more: Any) -> None:
        if path == str(journal_of(unfinished)):
            with pytest.raises(RunError, match="is in use by another run"):
                open_locked(path, os.O_RDWR)
            seen.append(path)
        real(path, *more)

    monkeypatch.setattr(os, "unlink", unlink)
    ced(*few, "--output", unfinished, "--top-k", "3", "--resume")
    assert seen and not journal_of(unfinished).exists()


def test_a_journal_that_the_previous_run_removed_while_it_had_the_lock_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    path = tmp_path / "tags.jsonl.journal"
    path.touch()
    real = fcntl.flock

    def flock(file: Any, flags: int) -> None:
        monkeypatch.undo()
        path.unlink()  # the other run ends between opening and locking
        real(file, flags)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(FileNotFoundError):
        open_locked(path, os.O_RDWR)


# --spreadsheet-safe


FORMULAS = ["=1+1.wav", "+a.wav", "-b.wav", "@c.wav", "'=quoted.wav", "'plain.wav", "plain.wav", "\t=tab.wav"]


@pytest.fixture
def formulas(few: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files in the working directory whose names are formulas in a spreadsheet."""
    monkeypatch.chdir(few[0].parent)
    for name in FORMULAS:
        Path(name).write_bytes(few[0].read_bytes())
    return [f"./{name}" for name in FORMULAS]


def test_names_that_look_like_formulas_are_quoted_with_spreadsheet_safe_only(
    formulas: list[str], ced: Run, tmp_path: Path
) -> None:
    plain, safe = tmp_path / "plain.csv", tmp_path / "safe.csv"
    ced(*formulas, "--output", plain, "-k", 1)
    ced(*formulas, "--output", safe, "-k", 1, "--spreadsheet-safe")
    assert [row["file"] for row in csv.DictReader(plain.open(newline=""))] == FORMULAS
    quoted = ["'=1+1.wav", "'+a.wav", "'-b.wav", "'@c.wav", "''=quoted.wav", "'plain.wav", "plain.wav", "'\t=tab.wav"]
    assert [row["file"] for row in csv.DictReader(safe.open(newline=""))] == quoted
    printed = ced(formulas[0], "-k", 1, "--format", "csv", "--spreadsheet-safe").stdout
    assert printed.splitlines()[1].startswith("'=1+1.wav,")


def test_a_spreadsheet_safe_output_is_resumed_only_with_the_option(
    formulas: list[str], ced: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tags.csv"
    made_up = tagged(*FORMULAS[:-1])
    before = write(output, made_up, spreadsheet_safe=True)
    assert "was it written spreadsheet-safe?" in ced(*formulas, "--output", output, "--resume", code=2).stderr
    assert output.read_bytes() == before
    result = ced(*formulas, "--output", output, "--resume", "--spreadsheet-safe")
    assert f"{len(FORMULAS) - 1} results of {output} are kept" in result.stderr
    records = list(read_records(str(output), Format.CSV, spreadsheet_safe=True))
    assert records[:-1] == made_up and records[-1]["file"] == FORMULAS[-1]
    write(output, made_up)
    result = ced(*formulas, "--output", output, "--resume", "--spreadsheet-safe", code=2)
    assert "it is not spreadsheet-safe" in result.stderr
    output.unlink()
    interrupt_at_the_end(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    ced(formulas[0], "--output", output, "--spreadsheet-safe", code=130)
    assert (
        "--spreadsheet-safe is not given: expected True, as when "
        in ced(formulas[0], "--output", output, "--resume", code=2).stderr
    )


@pytest.mark.parametrize("format", ["json", "jsonl", "parquet", "table"])
def test_spreadsheet_safe_is_for_csv(few: list[Path], ced: Run, tmp_path: Path, format: str) -> None:
    result = ced(few[0], "--output", tmp_path / "x", "--format", format, "--spreadsheet-safe", code=2)
    assert result.stderr == f"ced: --spreadsheet-safe needs --format csv, not {format}\n"
