# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag` and `ced labels`. Resuming is tested in test_cli_resume.py."""

import csv
import io
import json
import math
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_process import run as run_ced
from cli_process import start
from typer.testing import CliRunner

import ced_model
from ced_model import AUDIOSET_LABELS, AudioTagger
from ced_model.cli import main
from ced_model.cli.app import app
from ced_model.input_list import escape_name, find_inputs
from ced_model.messages import UsageError, clock
from ced_model.records import Record, make_records
from ced_model.writers import Format, read_records, write_records
from ced_model.writers.json import json_line

Run = Callable[..., Any]
REPOSITORY = Path(__file__).parents[2]
TORCH = {"torch", "transformers", "torchaudio"}
HEAVY = TORCH | {"numpy", "onnx", "onnxruntime", "openvino", "soundfile", "soxr", "scipy", "pyarrow", "huggingface_hub"}


@pytest.fixture
def ced() -> Run:
    """Runs the command in this process: `ced(*arguments, code=expected exit code)`."""

    def run(*arguments: Any, code: int = 0, stdin: bytes = b"") -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.stderr
        return result

    return run


@pytest.fixture
def folder(tmp_path: Path, clip: Path) -> Path:
    """A folder with good and broken files of all kinds; in order: 1.wav, bad.wav, dir.wav/…, sub/…"""
    folder = tmp_path / "folder"
    (folder / "sub" / ".hidden").mkdir(parents=True)
    (folder / "dir.wav").mkdir()
    for name in ("1.WAV", "sub/2.wav", "dir.wav/3.wav", "sub/.hidden/4.wav", "sub/.5.wav"):
        (folder / name).write_bytes(clip.read_bytes())
    (folder / "bad.wav").write_text("not audio")
    (folder / "notes.txt").write_text("not audio")
    return folder


def files(result: Any) -> list[str]:
    return [record["file"] for record in json.loads(result.stdout)]


def one_line(text: str) -> str:
    """The text, which must be a single line."""
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text[:-1]


def last_line(text: str) -> str:
    """The line of the error, after the one that names the model."""
    model, error = text.splitlines()
    assert model.startswith("model: ") and error.startswith("ced: ")
    return error


# Imports


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--help", 0),
        ("tag --help", 0),
        ("evaluate --help", 0),
        ("tag a.wav --modle x", 2),
        ("tag a.wav --top-k 3 --events", 2),
        ("tag a.wav --top-k 0", 2),
        ("tag a.wav --format xml", 2),
        ("tag s3://bucket/a.wav", 2),
        ("evaluate no-such.csv", 2),
        ("plot a.wav --output a.pdf", 2),
        ("labels dog", 0),
        ("labels xqzxqz", 1),
    ],
)
def test_help_and_wrong_usage_import_nothing_heavy(arguments: str, code: int) -> None:
    done = run_ced(*arguments.split(), code=code)
    assert not done.imported & HEAVY and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["tag", "tag --events", "plot -o PNG", "evaluate", "tag -l Dgo", "tag --window 20"])
def test_tagging_imports_neither_torch_nor_transformers_and_works_without_them(
    command: str, resources: Path, tmp_path: Path
) -> None:
    sound = resources / "misc_crow.flac"
    (tmp_path / "table.csv").write_text(f"path,label\n{sound},Crow\n{resources / 'perc_bell.flac'},Bell\n")
    name, *options = command.replace("PNG", str(tmp_path / "a.png")).split()
    code = 2 if command in ("tag -l Dgo", "tag --window 20") else 0
    done = run_ced(
        name, tmp_path / "table.csv" if name == "evaluate" else sound, *options, code=code, without=" ".join(TORCH)
    )
    assert done.stderr.startswith("model: ced-nano (small, bundled") and "onnx float32 on cpu\n" in done.stderr


@pytest.mark.parametrize(
    "command", ["finetune DATA -o x", "distill train DATA -s tiny -o x", "tag a.wav --engine torch"]
)
def test_commands_that_need_torch_report_it_in_one_line(command: str, tmp_path: Path) -> None:
    arguments = command.replace("DATA", str(tmp_path)).split()
    done = run_ced(*arguments, code=1, without="torch transformers")
    assert "torch" in one_line(done.stderr) and "pip install" in done.stderr


@pytest.mark.parametrize(
    "command", [[], ["tag"], ["labels"], ["plot"], ["listen"], ["learn"], ["embed"], ["search"], ["clips"], ["serve"]]
)
def test_help_is_complete_and_without_python_types(ced: Run, command: list[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = ced(*command, "-h").stdout
    assert shown == ced(*command, "--help").stdout
    assert not re.search(r"[<>]\w|\w<|\w\.\.\.$", shown, re.MULTILINE), shown
    assert ("Example: ced tag" in shown) == (not command)
    if command in (["plot"], ["listen"]):
        for option in ("window", "hop", "top-k"):
            assert re.search(rf"--{option} [^-]*by default", shown)


def test_the_version_is_shown_in_a_checkout_that_is_not_installed(ced: Run) -> None:
    assert ced("--version").stdout == f"ced {ced_model.__version__}\n"


def test_ctrl_c_before_the_command_begins_is_one_line(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ced_model.cli.app.run", interrupted)
    monkeypatch.setattr("ced_model.cli.terminal.prepare_process", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "ced: interrupted\n")


def test_the_bundled_model_is_the_default_and_is_announced(ced: Run, resources: Path) -> None:
    done = ced("tag", resources / "misc_crow.flac", "--json")
    assert {"Crow", "Caw"} & {tag["label"] for tag in json.loads(done.stdout)[0]["tags"]}
    first_line = done.stderr.splitlines()[0]
    assert first_line.startswith("model: ced-nano (small, bundled; for best accuracy: --model mispeech/ced-")
    assert first_line.endswith("), onnx float32 on cpu")


def test_a_folder_with_the_name_of_the_bundled_model_is_used_only_by_its_path(
    ced: Run, clip: Path, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ced-nano").symlink_to(random_model)
    monkeypatch.chdir(tmp_path)
    assert "model: ced-nano (small, bundled" in ced("tag", clip).stderr
    assert "model: ced-nano (small" not in ced("tag", clip, "--model", "./ced-nano").stderr


def test_unsupported_options_of_the_bundled_model_are_wrong_usage_at_once(ced: Run, clip: Path) -> None:
    assert "did you mean 'Dog'" in last_line(ced("tag", clip, "--labels", "Dogg", code=2).stderr)
    assert "--window 20: expected 0.15 to 10.12 s" in last_line(ced("tag", clip, "--window", "20", code=2).stderr)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--top-k", "0"], "top-k"),
        (["--threshold", "nan"], "--threshold nan: expected a score, or CLASS=SCORE"),
        (["--threshold", "30"], "--threshold 30: expected a score from 0 to 1"),
        (["--window", "0"], "--window 0: expected 0.15 to 10.12 seconds"),
        (["--hop", "-1"], "--hop -1: expected more than 0"),
        (["--window", "inf"], "--window inf"),
        (["--window", "1", "--hop", "2"], "--hop 2: expected more than 0 and at most the window of 1 seconds"),
        (["--window", "60"], "--window 60: expected 0.15 to 10.12 seconds"),
        (["--window", "0.1"], "0.15 to 10.12 seconds"),
        (["--events", "--window", "60"], "--window 60: expected 0.15 to 10.12 seconds"),
        (["--hop", "11"], "--hop 11: expected more than 0 and at most the window of 10 seconds"),
        (["--average", "median"], "--average median: expected mean or max"),
        (["--channel", "left"], "--channel left: expected mix, loudest or the number of a channel from 0"),
        (["--channel", "-1"], "--channel -1: expected mix"),
        (["--events", "--top-k", "3"], "--top-k has no effect with --events"),
        (["--events", "--average", "max"], "--average has no effect with --events"),
        (["--merge-gap", "1"], "--merge-gap needs --events"),
        (["--events", "--min-duration", "-1"], "--min-duration -1: expected a number from 0"),
        (["--labels", "Dgo"], "--labels Dgo: expected a class of the model; did you mean 'Dog'?"),
        (["--labels", "Zqx"], "--labels Zqx: expected a class of the model"),
        (["--events", "--labels", "Laugh"], "did you mean 'Laughter', 'Belly laugh'"),
        (["--json", "--format", "csv"], "give either --json or --format csv, not both"),
        (["--format", "xml"], "xml"),
        (["--resume"], "--resume needs --output"),
        (["--overwrite"], "--overwrite needs --output"),
        (["--resume", "--overwrite", "--output", "x.csv"], "choose one"),
        (["--resume", "--output", "x.txt"], "add --format table|audacity|raven"),
        (["--resume", "--output", "x.txt", "--format", "table"], "--resume does not work with --format table"),
        (["--output", "x.xyz"], "--format table|json|jsonl|csv|parquet"),
        (["--output", "folder/"], "--output folder/: expected a file; only --format audacity|raven|"),
        (["--output", "folder/", "--format", "csv"], "expected a file; only --format audacity|raven|"),
        (["--output", "no/such/folder/x.csv"], "there is no folder"),
        (["--output", "/dev/null", "--format", "csv"], "--output /dev/null: expected a regular file"),
        (["--format", "parquet"], "needs --output"),
        (["--device", "gpu"], "--device gpu"),
        (["--threads", "0"], "threads"),
        (["--batch-size", "0"], "batch-size"),
        (["--from", "no-such-list"], "the list no-such-list: No such file"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    ced: Run, random_model: Path, clip: Path, arguments: list[str], expected: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    result = ced("tag", clip, "--model", random_model, *arguments, code=2)
    assert expected in result.stderr.splitlines()[-1]
    assert result.stdout == "" and os.listdir(tmp_path) == []


def test_unusable_models_are_one_line(ced: Run, random_model: Path, clip: Path, tmp_path: Path) -> None:
    missing = ced("tag", clip, "--model", tmp_path / "missing", code=2)
    assert "there is no such folder" in one_line(missing.stderr)
    assert "no config.json" in one_line(ced("tag", clip, "--model", tmp_path, code=2).stderr)
    assert "ced convert" in one_line(ced("tag", clip, "--model", clip, code=2).stderr)

    torn = tmp_path / "torn"
    torn.mkdir()
    for file in random_model.iterdir():
        (torn / file.name).write_bytes(file.read_bytes())
    (torn / "model.safetensors").write_bytes((random_model / "model.safetensors").read_bytes()[:1000])
    assert f"{torn} cannot be loaded" in one_line(ced("tag", clip, "--model", torn, code=1).stderr)
    (torn / "config.json").write_text('{"model_type": "bert"}')
    assert "not CED" in one_line(ced("tag", clip, "--model", torn, code=1).stderr)
    (torn / "config.json").write_text("{")
    assert "config.json is not valid JSON" in one_line(ced("tag", clip, "--model", torn, code=1).stderr)


def test_an_unreachable_hub_is_one_line(clip: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ced_model", "tag", clip, "--model", "mispeech/ced-tiny"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    message = one_line(done.stderr)
    assert "mispeech/ced-tiny cannot be loaded: mispeech/ced-tiny is neither a local folder nor in the cache" in message
    assert "(offline mode): check the name, or give a local folder." in message


def test_nothing_to_tag_is_wrong_usage(ced: Run, random_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").write_text("\n\n")
    for arguments in ([], [tmp_path / "empty", "*.nothing"], ["--from", tmp_path / "list"], [""]):
        one_line(ced("tag", *arguments, "--model", random_model, code=2).stderr)


# Inputs


def test_the_real_program_gives_the_tagger_s_results_and_nothing_else_on_stdout(
    random_model: Path, resources: Path
) -> None:
    recordings = sorted(resources.glob("*.flac"))
    done = subprocess.run(
        [sys.executable, "-m", "ced_model", "tag", *recordings, "--model", random_model, "--json", "--top-k", "7"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    tagger = AudioTagger.from_pretrained(random_model)
    records = json.loads(done.stdout)
    assert [record["file"] for record in records] == [str(recording) for recording in recordings]
    for record, recording in zip(records, recordings, strict=True):
        assert record["duration_s"] == pytest.approx(soundfile.info(recording).duration, abs=1e-4)
        tags = tagger(recording, top_k=7)
        assert [(tag["label"], tag["index"]) for tag in record["tags"]] == [(tag.label, tag.index) for tag in tags]
        assert [tag["score"] for tag in record["tags"]] == pytest.approx([tag.score for tag in tags], abs=1e-5)
    said = done.stderr.splitlines()
    assert said[0] == f"model: {random_model}, onnx float32 on cpu"
    assert len(said) == 2 and said[1].startswith(f"{len(recordings)} of {len(recordings)} inputs, ")


def test_options_reach_the_tagger(ced: Run, random_model: Path, long_clip: Path) -> None:
    tagger = AudioTagger.from_pretrained(random_model)

    def tags(*arguments: Any) -> list[tuple[str, int]]:
        result = ced("tag", long_clip, "--model", random_model, "--json", *arguments)
        record = json.loads(result.stdout)[0]
        return [(tag["label"], pytest.approx(tag["score"], abs=1e-5), tag["index"]) for tag in record["tags"]]

    assert tags("--window", "2", "--hop", "0.5") == tagger(long_clip, window_s=2.0, hop_s=0.5)
    assert tags("--average", "max", "-k", "9") == tagger(long_clip, average="max", top_k=9)
    assert tags("--labels", "dog", "-l", "Chuckle, chortle") == tagger(long_clip, labels=["Dog", "Chuckle, chortle"])
    assert tags("--channel", "mix") == tagger(long_clip) != tagger(long_clip, channel=1)
    assert tags("--channel", "1") == tagger(long_clip, channel=1)
    assert tags("--channel", "loudest") == tagger(long_clip, channel="loudest")
    result = ced("tag", long_clip, "--model", random_model, "--events", "--channel", "7", code=1)
    assert "has 2 channels, numbered from 0: there is no channel 7" in result.stderr
    threshold = tagger(long_clip, top_k=20)[-1].score - 1e-4
    assert len(tags("--threshold", threshold)) == len(tagger(long_clip, threshold=threshold)) >= 20
    assert tags("--threshold", "1") == []


def test_events_are_the_tagger_s(ced: Run, random_model: Path, long_clip: Path) -> None:
    tagger = AudioTagger.from_pretrained(random_model)
    timeline = tagger.timeline(long_clip, window_s=1.0, hop_s=0.5)
    classes = timeline.scores.std(axis=0).argsort()[-3:]
    labels = [AUDIOSET_LABELS[index] for index in classes]
    threshold = float(np.median(timeline.scores[:, classes]))
    events = timeline.events(dict.fromkeys(labels, threshold), min_duration_s=0.6, merge_gap_s=1.0)
    assert len(events) > 1

    arguments = [argument for label in labels for argument in ("--labels", label)]
    arguments += ["--window", "1", "--hop", "0.5", "--min-duration", "0.6", "--merge-gap", "1"]
    result = ced("tag", long_clip, "-m", random_model, "--json", "--events", "--threshold", threshold, *arguments)
    (record,) = json.loads(result.stdout)
    found = [(event["onset_s"], event["offset_s"], event["label"], event["peak"]) for event in record["events"]]
    assert found == [(e.onset_s, e.offset_s, e.label, pytest.approx(e.peak, abs=1e-5)) for e in events]
    assert record["duration_s"] == timeline.duration_s and record.keys() == {"file", "duration_s", "events"}


def test_folders_patterns_and_lists_give_each_file_once_in_order(
    ced: Run, random_model: Path, folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(folder)
    in_folder = ["1.WAV", "bad.wav", "dir.wav/3.wav", "sub/2.wav"]
    options = ["--model", random_model, "--json", "-k", "1"]
    assert files(ced("tag", ".", *options, code=1)) == in_folder
    assert files(ced("tag", "sub/2.wav", "./", "1.WAV", "./sub/../1.WAV", *options, code=1)) == [
        "sub/2.wav",
        *in_folder[:3],
        "sub/../1.WAV",  # `..` is resolved by the file system (symbolic links), not in the text
    ]
    assert files(ced("tag", "**/[0-9].wav", *options)) == ["dir.wav/3.wav", "sub/2.wav"]
    assert files(ced("tag", folder / "sub", "no*match", *options, code=1)) == [str(folder / "sub/2.wav"), "no*match"]

    (folder / "[1].wav").write_bytes((folder / "1.WAV").read_bytes())
    assert files(ced("tag", "[1].wav", *options)) == ["[1].wav"]  # a file with the name of the pattern has priority
    (tmp_path / "list").write_bytes("\ufeffsub/2.wav\r\n\n[1].wav\nsub/2.wav\n".encode())
    assert files(ced("tag", "1.WAV", "--from", tmp_path / "list", *options)) == ["1.WAV", "sub/2.wav", "[1].wav"]
    assert files(ced("tag", "--from", "-", *options, stdin=b"dir.wav\0sub/2.wav\0")) == ["dir.wav/3.wav", "sub/2.wav"]


def test_links_to_folders_are_followed_once(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "sub" / "other").symlink_to(folder.parent / "elsewhere")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "6.wav").write_bytes(b"")
    names = [os.path.relpath(item.source, folder) for item in find_inputs([str(folder)])]
    assert names == ["1.WAV", "bad.wav", "dir.wav/3.wav", "sub/2.wav", "sub/other/6.wav"]


def test_a_folder_that_cannot_be_listed_is_an_input_that_failed(
    ced: Run, random_model: Path, folder: Path, monkeypatch: Any
) -> None:
    scandir = os.scandir

    def forbidding(path: Any) -> Any:  # root can read files of any mode
        if os.fspath(path).endswith("dir.wav"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    result = ced("tag", folder, "--model", random_model, "--json", code=1)
    errors = {record["file"]: record["error"] for record in json.loads(result.stdout) if "error" in record}
    assert errors[str(folder / "dir.wav")] == "cannot be listed: Permission denied"
    assert errors.keys() == {str(folder / "dir.wav"), str(folder / "bad.wav")}
    assert f"{folder / 'dir.wav'}: cannot be listed: Permission denied\n" in result.stderr


def test_standard_input_is_one_audio_file(ced: Run, random_model: Path, clip: Path) -> None:
    options = ["--model", random_model, "--format", "jsonl"]
    piped = json.loads(ced("tag", "-", *options, stdin=clip.read_bytes()).stdout)
    assert piped == json.loads(ced("tag", clip, *options).stdout) | {"file": "-"}
    nothing = ced("tag", "-", clip, *options, stdin=b"", code=1)
    assert json.loads(nothing.stdout.splitlines()[0]) == {"file": "-", "error": "holds no audio: the file is empty"}
    assert "-: holds no audio: the file is empty\n" in nothing.stderr
    one_line(ced("tag", "-", "--from", "-", *options, code=2).stderr)


def test_failed_inputs_are_reported_and_the_others_are_tagged(ced: Run, random_model: Path, folder: Path) -> None:
    os.mkfifo(folder / "fifo.wav")
    vanished = folder / "vanished.wav"
    vanished.symlink_to(folder / "nowhere")
    result = ced("tag", folder, "https://example.com/a.wav?x=1", "--model", random_model, "--json", code=1)
    records = {record["file"].removeprefix(f"{folder}/"): record for record in json.loads(result.stdout)}
    errors = {name: record["error"] for name, record in records.items() if "error" in record}
    assert errors.keys() == {"bad.wav", "fifo.wav", "vanished.wav", "https://example.com/a.wav?x=1"}
    assert errors["vanished.wav"] == "cannot be opened: No such file or directory"
    assert errors["fifo.wav"].startswith("a pipe") and errors["fifo.wav"].endswith("; send it to `ced tag -`")
    for name, error in errors.items():
        assert set(records[name]) == {"file", "error"}
        assert re.search(f"^.*{re.escape(name)}: {re.escape(error)}$", result.stderr, re.MULTILINE)
    assert result.stderr.endswith(", 4 failed\n")


def test_a_file_deleted_after_listing_does_not_stop_the_others(random_model: Path, folder: Path) -> None:
    inputs = find_inputs([str(folder)])
    (folder / "dir.wav" / "3.wav").unlink()
    records = list(make_records(AudioTagger.from_pretrained(random_model), inputs, {"top_k": 2}))
    assert [os.path.relpath(record["file"], folder) for record in records] == [
        "1.WAV",
        "bad.wav",
        "dir.wav/3.wav",
        "sub/2.wav",
    ]
    assert records[2]["error"] == "cannot be opened: No such file or directory"
    assert [len(record.get("tags", [])) for record in records] == [2, 0, 0, 2]


def test_a_thousand_files_with_three_broken_ones(ced: Run, random_model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(1000):
        samples = rng.normal(scale=0.1, size=int(rng.integers(1000, 8000)))
        soundfile.write(tmp_path / f"{index:04}.wav", samples, 16000)
    for index, content in ((0, b""), (500, b"text"), (999, b"RIFF")):
        (tmp_path / f"{index:04}.wav").write_bytes(content)
    result = ced("tag", tmp_path, "--model", random_model, "--format", "jsonl", "-k", "2", code=1)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["file"] for record in records] == [str(tmp_path / f"{index:04}.wav") for index in range(1000)]
    assert [index for index, record in enumerate(records) if "error" in record] == [0, 500, 999]
    assert "1000 of 1000 inputs" in result.stderr and result.stderr.endswith("3 failed\n")
    tagger = AudioTagger.from_pretrained(random_model)
    for record in records[1:998:100]:
        tags = tagger(record["file"], top_k=2)
        assert [tag["label"] for tag in record["tags"]] == [tag.label for tag in tags]
        assert [tag["score"] for tag in record["tags"]] == pytest.approx([tag.score for tag in tags], abs=1e-5)


# Outputs


@pytest.fixture
def odd_names(tmp_path: Path, clip: Path) -> list[bytes]:
    """Files whose names have characters that formats must escape."""
    names = [b"line\nbreak.wav", b"return\rcarriage.wav", b'quo"te,comma.wav', b"\xff\xfe.wav", rb"back\xff.wav"]
    names += ["é中😀\u202e.wav".encode(), b"\x1b[31mred.wav", rb"a\b\x5c.wav", b" space .wav", b"[bold]rich[red].wav"]
    paths = [os.fsencode(tmp_path) + b"/odd/" + name for name in names]
    (tmp_path / "odd").mkdir()
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(clip.read_bytes())
    return sorted(paths)


def unescaped(name: str) -> bytes:
    """Reverses the escaping that `ced tag --help` describes."""
    escaped = re.compile(rb"\\x([0-9a-f]{2})")
    return escaped.sub(lambda match: bytes.fromhex(match[1].decode()), name.encode())


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "parquet"])
def test_any_file_name_can_be_restored_from_any_format(
    ced: Run, random_model: Path, odd_names: list[bytes], tmp_path: Path, format: str
) -> None:
    output = tmp_path / f"tags.{format}"
    ced("tag", tmp_path / "odd", "--model", random_model, "--output", output, "-k", "2")
    records = list(read_records(str(output), Format(format)))
    assert sorted(unescaped(record["file"]) for record in records) == odd_names
    assert all(len(record["tags"]) == 2 for record in records)


def test_tables_and_errors_show_any_name_on_one_line(
    ced: Run, random_model: Path, odd_names: list[bytes], tmp_path: Path
) -> None:
    lines = ced("tag", tmp_path / "odd", "--model", random_model, "-k", "1").stdout.splitlines()
    assert len(lines) == 3 * len(odd_names) - 1
    assert f"{tmp_path}/odd/line\\nbreak.wav  0.5 s" in lines
    assert f"{tmp_path}/odd/\\x1b[31mred.wav  0.5 s" in lines
    assert f"{tmp_path}/odd/[bold]rich[red].wav  0.5 s" in lines
    for path in odd_names:
        Path(os.fsdecode(path)).write_bytes(b"")
    said = ced("tag", tmp_path / "odd", "--model", random_model, code=1).stderr.splitlines()
    assert len(said) == len(odd_names) + 2
    assert f"{tmp_path}/odd/\\xff\\xfe.wav: holds no audio: the file is empty" in said


def test_names_in_utf_8_are_unchanged() -> None:
    for name in ("a.wav", "é中😀.wav", r"C:\sounds\new\x.wav", "a\nb.wav", r"\x", r"\xg0"):
        assert escape_name(name) == name
    assert escape_name("\udcff") == r"\xff" and escape_name(r"\xff") == r"\x5cxff"


def test_all_formats_have_the_same_content(ced: Run, random_model: Path, folder: Path, tmp_path: Path) -> None:
    for kind, arguments in (
        ("tags", ["-k", "3"]),
        ("events", ["--events", "-l", "Dog", "-l", "Cat", "--window", "0.3"]),
    ):
        if kind == "events":
            arguments += ["--threshold", "0.5"]
        records = {}
        for format in ("json", "jsonl", "csv", "parquet"):
            output = tmp_path / f"{kind}.{format}"
            ced("tag", folder, "--model", random_model, "--output", output, *arguments, code=1)
            records[format] = list(read_records(str(output), Format(format), kind))
        assert records["jsonl"] == records["json"] and records["csv"] == records["json"]
        assert records["parquet"] == records["json"]
        assert [len(record) for record in records["json"]] == [3, 2, 3, 3]  # the second one failed
        printed = ced("tag", folder, "--model", random_model, "--json", *arguments, code=1)
        assert json.loads(printed.stdout) == records["json"]


def test_csv_has_a_row_for_each_tag_and_for_each_input_without(ced: Run, random_model: Path, folder: Path) -> None:
    def rows(*arguments: str) -> list[dict[str, str]]:
        result = ced("tag", folder, "--model", random_model, "--format", "csv", *arguments, code=1)
        return list(csv.DictReader(result.stdout.splitlines()))

    tagged = rows("-k", "2")
    assert list(tagged[0]) == ["file", "duration_s", "rank", "label", "index", "score", "error"]
    assert [row["rank"] for row in tagged] == ["1", "2", "", "1", "2", "1", "2"]
    assert AUDIOSET_LABELS[int(tagged[0]["index"])] == tagged[0]["label"] and tagged[0]["error"] == ""
    failed = {key: value for key, value in tagged[2].items() if value}
    assert failed.keys() == {"file", "error"} and failed["file"] == str(folder / "bad.wav")
    empty = rows("--threshold", "1")
    assert [row["duration_s"] for row in empty] == ["0.5", "", "0.5", "0.5"] and not any(row["label"] for row in empty)
    events = rows("--events", "--threshold", "1")
    assert list(events[0]) == ["file", "duration_s", "onset_s", "offset_s", "label", "peak", "error"]


def test_parquet_columns_have_types(ced: Run, random_model: Path, clip: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    ced("tag", clip, "--model", random_model, "--output", tmp_path / "tags.parquet")
    table = parquet.read_table(tmp_path / "tags.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "file": "string",
        "duration_s": "double",
        "rank": "int32",
        "label": "string",
        "index": "int32",
        "score": "double",
        "error": "string",
    }
    assert table.num_rows == 5


def test_parquet_names_its_extra(ced: Run, random_model: Path, clip: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = ced("tag", clip, "--model", random_model, "--output", tmp_path / "tags.parquet", code=1)
    assert "pip install pyarrow" in one_line(result.stderr)


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_output_ends_with_a_complete_line_while_the_next_record_is_computed(format: str) -> None:
    stream = io.BytesIO()
    records = [{"file": name, "error": "no audio"} for name in "abc"]
    seen = []

    def awaited() -> Iterator[Record]:
        for record in records:
            seen.append(stream.getvalue())
            yield record
        seen.append(stream.getvalue())

    write_records(awaited(), stream, Format(format))
    assert all(text.endswith(b"\n") for text in seen[1:]) and len(set(seen)) == 4
    if format == "json":
        assert json.loads(stream.getvalue()) == records


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_no_format_has_nan_or_infinity(format: str, number: float, tmp_path: Path) -> None:
    tags = [{"label": "Speech", "score": 0.5, "index": 0}, {"label": "Dog", "score": number, "index": 1}]
    events = [{"onset_s": 0.0, "offset_s": 1.0, "label": "Speech", "peak": number}]
    for kind, items, name in (("tags", tags, "score"), ("events", events, "peak")):
        problem = f"{name} is {number}, not a finite number"
        stream = io.BytesIO()
        records = [{"file": "a", "duration_s": 1.0, kind: items}, {"file": "b", "duration_s": 1.0, kind: items[:0]}]
        write_records(records, stream, Format(format), kind=kind)
        if format == "table":
            assert f"failed: the result cannot be stored: {problem}" in stream.getvalue().decode()
        else:
            (tmp_path / "found").write_bytes(stream.getvalue())
            first, second = read_records(str(tmp_path / "found"), Format(format), kind=kind)
            assert first == {"file": "a", "error": f"the result cannot be stored: {problem}"} and second == records[1]


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "parquet"])
def test_files_of_other_programs_are_not_read_as_results(format: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"hello\n", b'{"a": 1}\n', b'[{"a": 1}]\n', b"\xff\n", b'"file"\n', b"file,duration_s\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be resumed: .* are not as they were written"):
            list(read_records(str(path), Format(format)))
    with open(path, "wb") as file:
        write_records([{"file": "a", "duration_s": 1.0, "events": []}], file, Format(format), kind="events")
    with pytest.raises(UsageError, match="results of tags"):
        list(read_records(str(path), Format(format)))


def test_tables_fit_into_80_columns(ced: Run, random_model: Path, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    lines = ced("tag", "1.WAV", "bad.wav", "--model", random_model, "-k", "527", code=1).stdout.splitlines()
    assert lines[0] == "1.WAV  0.5 s" and len(lines) == 1 + 527 + 1 + 2
    assert max(map(len, lines[:528])) <= 80
    assert re.fullmatch(r"  0\.\d{3}  [━ ]{20}  \S.*", lines[1])
    assert lines[-2] == "bad.wav" and lines[-1].startswith("  failed: ")
    assert ced("tag", "1.WAV", "-m", random_model, "--threshold", "1").stdout.splitlines()[1:] == [
        "  nothing above the threshold"
    ]
    events = ced("tag", "1.WAV", "-m", random_model, "--events", "--threshold", "0.01", "-l", "Dog").stdout
    assert re.fullmatch(r"1\.WAV  0\.5 s\n  0\.0 s – 0\.5 s  0\.\d{3}  Dog\n", events)


def test_clock_times() -> None:
    assert [clock(seconds) for seconds in (0.04, 59.96, 61.25, 3600, 36000.44)] == [
        "0.0 s",
        "1:00.0",
        "1:01.2",
        "1:00:00.0",
        "10:00:00.4",
    ]


def test_a_full_disk_behind_stdout_is_one_line(random_model: Path, clip: Path, tmp_path: Path) -> None:
    process = start(["tag", clip, "-m", random_model, "--json"], stdout="/dev/full", stderr=tmp_path / "stderr")
    process.join()
    assert process.exitcode == 1
    said = (tmp_path / "stderr").read_text().splitlines()
    assert said[1:] == ["ced: standard output: No space left on device"]


def run_in_terminal(arguments: list[Any], stdout: Path | None) -> tuple[int | None, str]:
    """Runs `ced` with stderr, and without a path for it also stdout, a terminal; returns what that showed."""
    controller, terminal = pty.openpty()
    process = start(arguments, stdout=stdout or terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(controller, 4096)
        except OSError:  # no process has the terminal open any more
            break
        if not piece:
            break
        shown += piece
    os.close(controller)
    process.join()
    return process.exitcode, shown.decode()


def test_progress_goes_to_a_terminal_only(random_model: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ["tag", folder, "-m", random_model, "--json"]
    code, shown = run_in_terminal(arguments, tmp_path / "stdout")
    assert code == 1 and len(json.loads((tmp_path / "stdout").read_text())) == 4
    assert "0/4" in shown and "ETA" in shown
    assert re.search(r"bad\.wav: neither.*\r\n", shown) and "× real time, 1 failed\r\n" in shown

    process = start(arguments, stdout=tmp_path / "stdout2", stderr=tmp_path / "stderr2")
    process.join()
    assert process.exitcode == 1 and len((tmp_path / "stderr2").read_text().splitlines()) == 3

    code, shown = run_in_terminal(["tag", folder, "-m", random_model, "-k", "1"], None)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert code == 1 and "ETA" in plain
    assert plain.count("bad.wav") == 1 and re.search(r"sub/2\.wav  0\.5 s\r\n  0\.\d{3}  ━", plain)

    code, shown = run_in_terminal(arguments, None)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert code == 1 and re.search(r"\}\r\n[^{}]*bad\.wav: neither", plain)


# ced labels


def test_labels_are_searched_by_words_and_shown_as_a_tree(ced: Run) -> None:
    def names(*query: str) -> list[str]:
        tree = ced("labels", *query).stdout.partition("\n\nOthers with the words")[0]
        return [line.split(maxsplit=2)[2] for line in tree.splitlines()]

    everything = ced("labels").stdout.splitlines()
    assert len(everything) == 527 and everything[16].split(maxsplit=2) == ["16", "/m/01j3sz", "Laughter"]
    assert names("dog") == [
        "Animal", "Domestic animals, pets", "Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"
    ]  # fmt: skip
    assert names("/m/0bt9lr") == names("74") == names("Dog...") == names("dog")
    assert names("LAUGH") == ["Belly laugh", "Laughter", "Baby laughter"]
    assert names("baby", "cry")[-1] == "Baby cry, infant cry" and names("baby cry")[0] == "Human sounds"
    assert ced("labels", "growling").stdout.count("Growling") == 4  # of dogs, cats, roaring cats and canidae
    assert "Others with the words 'bell':" in ced("labels", "bell").stdout
    similar = ced("labels", "lauhgter")
    assert "Laughter" in similar.stdout and "no class matches 'lauhgter'" in one_line(similar.stderr)
    assert "Dog" in ced("labels", "dgo").stdout
    assert "no class is similar to 'woof'" in one_line(ced("labels", "woof", code=1).stderr)


def test_the_classes_of_a_model_are_listed_and_searched(ced: Run, golden: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden / "micro_hub", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    names = ["Door bell", "Bell tower", *(f"Bird {index}" for index in range(2, len(config["id2label"])))]
    config["id2label"] = dict(enumerate(names))
    del config["label2id"]
    (folder / "config.json").write_text(json.dumps(config))
    expected = [f"{index:>3}  {name}" for index, name in enumerate(names)]
    assert ced("labels", "--model", folder).stdout.splitlines() == expected
    for query, rows in (("bell", [0, 1]), ("tow", [1]), ("1", [1]), ("BELL door", [0])):
        found = ced("labels", query, "--model", folder).stdout.splitlines()
        assert found == [expected[row] for row in rows]
    similar = ced("labels", "towre", "-m", folder)
    assert similar.stdout == "  1  Bell tower\n"
    assert similar.stderr == "no class matches 'towre'; similar names:\n"
    assert one_line(ced("labels", "xqz", "-m", folder, code=1).stderr) == (
        f"ced: no class of {folder} is similar to 'xqz'"
    )
    (folder / "model.safetensors").unlink()
    assert f"{folder} cannot be loaded: " in one_line(ced("labels", "-m", folder, code=1).stderr)


def test_json_lines_are_utf_8() -> None:
    assert json_line({"file": "é"}) == '{"file": "é"}\n'.encode()
