# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Closed and full standard streams, and control characters in names, which must not reach the terminal."""

import json
import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from cli_process import Stream, start
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ced_model import AudioTagger, CedConfig, CedForAudioClassification, Timeline
from ced_model.cli.app import app
from ced_model.records import Record, make_records
from ced_model.results import Tag, TagResult
from ced_model.writers import EVENT_FORMATS, Format, read_records, write_records

NASTY = ["\x1b[31mDog\x1b[0m", "two\nlines", "\u202egod", "[red]Cat[/red]", "half \ud800", "bell\a\b\r", "=1+1", "é"]
SHOWN = [r"\x1b[31mDog\x1b[0m", r"two\nlines", r"\u202egod", "[red]Cat[/red]", r"half \ud800", r"bell\x07\x08\r"]

Run = Callable[..., tuple[int | None, str, str]]


@pytest.fixture
def ced(tmp_path: Path) -> Run:
    """Runs the command in a separate process: exit code, standard output and standard error."""

    def run(*arguments: Any, stdin: Stream = "/dev/null", stdout: Any = "", stderr: Any = "") -> Any:
        paths = [tmp_path / "stdout.txt", tmp_path / "stderr.txt"]
        for path in paths:
            path.write_bytes(b"")
        streams = [paths[i] if stream == "" else stream for i, stream in enumerate((stdout, stderr))]
        process = start(arguments, stdin=stdin, stdout=streams[0], stderr=streams[1])
        process.join()
        return process.exitcode, *(path.read_text() for path in paths)

    return run


@pytest.fixture(scope="module")
def nasty_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose classes, and an unused tensor, have names with control characters."""
    from ced_model import CedFeatureExtractor

    folder = tmp_path_factory.mktemp("nasty") / "\x1b[35mmodel"
    labels = dict(enumerate(NASTY))
    config = CedConfig(embed_dim=48, depth=1, num_heads=3, outputdim=len(NASTY), id2label=labels)
    CedForAudioClassification(config).save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["\x1b[32mextra"] = weights["outputlayer.1.bias"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def assert_harmless(text: str) -> None:
    assert all(character.isprintable() or character in "\n " for character in text), ascii(text)


# Streams


@pytest.mark.parametrize("arguments", [["--help"], ["tag", "--help"], ["--version"], ["labels"], ["labels", "dog"]])
@pytest.mark.parametrize(
    ("stdout", "reason"), [(None, "Bad file descriptor"), ("/dev/full", "No space left on device")]
)
def test_output_that_cannot_be_written_is_one_line(ced: Run, arguments: list[str], stdout: Stream, reason: str) -> None:
    code, _, said = ced(*arguments, stdout=stdout)
    assert code == 1 and said == f"ced: standard output: {reason}\n"


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("stdout", "reason"), [(None, "Bad file descriptor"), ("/dev/full", "No space left on device")]
)
def test_tags_that_cannot_be_written_are_one_line(
    ced: Run, random_model: Path, clip: Path, format: str, stdout: Stream, reason: str
) -> None:
    code, _, said = ced("tag", clip, "-m", random_model, "--format", format, stdout=stdout)
    assert code == 1 and said.splitlines()[1:] == [f"ced: standard output: {reason}"]


def test_figures_and_pictures_do_not_need_standard_output_but_report_its_failure(
    ced: Run, random_model: Path, clip: Path, resources: Path, tmp_path: Path
) -> None:
    table = tmp_path / "clips.csv"
    table.write_text(f"path,label\n{clip},Dog\n{resources / 'misc_crow.flac'},Crow\n")
    files = ["--per-class", tmp_path / "c.csv", "--predictions", tmp_path / "p.npz"]
    code, _, said = ced("evaluate", table, "-m", random_model, *files, stdout="/dev/full")
    assert code == 1 and said.splitlines()[-1] == "ced: standard output: No space left on device"
    assert (tmp_path / "c.csv").exists() and (tmp_path / "p.npz").exists()
    code, _, said = ced("plot", clip, "-m", random_model, "-o", tmp_path / "p.png", stdout=None)
    assert code == 1 and said.splitlines()[-1] == "ced: standard output: Bad file descriptor"
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_closed_standard_input_is_one_line(ced: Run, random_model: Path, clip: Path) -> None:
    code, printed, said = ced("tag", "-", "-m", random_model, stdin=None)
    assert (code, printed, said) == (1, "", "ced: standard input: Bad file descriptor\n")
    code, printed, said = ced("tag", "--from", "-", "-m", random_model, stdin=None)
    assert (code, printed, said) == (2, "", "ced: the list -: Bad file descriptor\n")
    code, printed, said = ced("tag", clip, "-m", random_model, "--json", stdin=None)
    assert code == 0 and len(json.loads(printed)) == 1 and said.count("\n") == 1


@pytest.mark.parametrize("stderr", [None, "/dev/full"])
def test_without_standard_error_results_are_the_same_and_its_text_is_not_written_elsewhere(
    ced: Run, random_model: Path, clip: Path, tmp_path: Path, stderr: Stream
) -> None:
    arguments = ["tag", clip, tmp_path / "missing.wav", "-m", random_model]
    code, printed, said = ced(*arguments, "--json", stderr=stderr)
    assert code == 1 and said == "" and [len(record) for record in json.loads(printed)] == [3, 2]
    output = tmp_path / "tags.jsonl"
    code, printed, said = ced(*arguments, "-o", output, stdin=None, stdout=None, stderr=stderr)
    assert code == 1 and printed == said == ""
    assert len(list(read_records(str(output), Format.JSONL))) == 2
    assert ced("labels", "xqzxqz", stderr=stderr)[:2] == (1, "")


# Names with control characters


@pytest.mark.parametrize("kind", [[], ["--events", "--threshold", "0.01", "--window", "0.4"]])
def test_control_characters_in_names_of_classes_files_and_tensors_are_escaped(
    ced: Run, nasty_model: Path, clip: Path, tmp_path: Path, kind: list[str]
) -> None:
    (tmp_path / "\x1b[33mbad.wav").write_bytes(b"no audio")
    more = ["-k", "8"] if not kind else []
    code, printed, said = ced("tag", clip, tmp_path / "\x1b[33mbad.wav", "-m", nasty_model, *more, *kind)
    assert code == 1
    for text in (printed, said):
        assert_harmless(text.replace("━", "-"))
    assert r"\x1b[33mbad.wav: " in said and r"\x1b[35mmodel, onnx float32 on cpu" in said
    assert all(label in printed for label in SHOWN)


def test_machine_formats_keep_names_as_data(nasty_model: Path, clip: Path, tmp_path: Path) -> None:
    for format in ("json", "jsonl", "csv", "parquet"):
        output = tmp_path / f"tags.{format}"
        result = CliRunner().invoke(app, ["tag", str(clip), "-m", str(nasty_model), "-k", "8", "-o", str(output)])
        assert result.exit_code == 0, result.output
        (record,) = read_records(str(output), Format(format))
        labels = {tag["label"] for tag in record["tags"]}
        assert labels == {*NASTY} - {"half \ud800"} | {r"half \ud800"}  # an unpaired surrogate cannot be encoded


def test_wrong_usage_shows_control_characters_of_arguments_escaped(ced: Run, nasty_model: Path, clip: Path) -> None:
    for arguments in (
        ["tag", clip, "-m", nasty_model, "-l", "\x1b[31mDgo"],
        ["tag", clip, "-m", "/\x1b[31m"],
        ["tag", "\x1b[31m*.wav"],
        ["labels", "\x1b[31mxqzxqz"],
        ["evaluate", "\x1b[31m"],
        ["plot", "\x1b[31m.wav", "-m", nasty_model],
        ["distill", "teach", "\x1b[31m", "-t", "x", "-e", "1", "-o", "y"],
        ["finetune", "\x1b[31m", "-o", "x"],
        ["tag", "--\x1b[31m"],
        ["\x1b[31m"],
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
        assert "\x1b" not in result.stderr and "x1b[31m" in result.stderr, arguments


# Numbers that are not finite


TAG_FORMATS = [format for format in Format if format not in EVENT_FORMATS]


class BrokenTagger:
    """A tagger with results that are not finite for some inputs."""

    def tag(self, sources: Any, **_: Any) -> Any:
        scores = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
        for source in sources:
            tags = [Tag("Dog", 0.5, 0), Tag("Cat", scores.get(source, 0.25), 1)]
            yield TagResult(source, source, math.nan if source == "length" else 1.0, tags)


@pytest.mark.parametrize("format", TAG_FORMATS)
def test_a_result_that_is_not_a_number_is_an_error_of_its_input_only(format: Format, tmp_path: Path) -> None:
    from ced_model.input_list import Input

    names = ["a", "nan", "b", "inf", "-inf", "length", "c"]
    tagger: Any = BrokenTagger()
    records = list(make_records(tagger, [Input(name, name) for name in names], {}))
    assert [record["file"] for record in records] == names
    failed = [record["file"] for record in records if "error" in record]
    assert failed == ["nan", "inf", "-inf", "length"]
    assert records[1]["error"] == "the result cannot be stored: score is nan, not a finite number"
    assert_whole(records, format, tmp_path / f"x.{format}", names)


@pytest.mark.parametrize("format", TAG_FORMATS)
def test_every_writer_refuses_numbers_that_are_not_finite(format: Format, tmp_path: Path) -> None:
    records: list[Record] = [
        {"file": "a", "duration_s": 1.0, "tags": [{"label": "Dog", "score": score, "index": 0}]}
        for score in (math.nan, math.inf)
    ]
    records[1]["file"] = "b"
    assert_whole(records, format, tmp_path / f"x.{format}", ["a", "b"])


def assert_whole(records: list[Record], format: Format, path: Path, names: list[str]) -> None:
    stream = BytesIO()
    write_records(records, stream, format)
    if format is Format.TABLE:
        text = stream.getvalue().decode()
        assert all(f"{name}  1.0 s" in text or f"{name}\n  failed: " in text for name in names)
        return
    path.write_bytes(stream.getvalue())
    assert [record["file"] for record in read_records(str(path), format)] == names


@pytest.mark.parametrize("format", list(EVENT_FORMATS))
def test_no_file_of_events_has_a_number_that_is_not_finite(format: Format) -> None:
    event = {"onset_s": 0.0, "offset_s": 1.0, "label": "Dog", "peak": math.nan}
    stream, without = BytesIO(), BytesIO()
    write_records([{"file": "a", "duration_s": 1.0, "events": [event]}], stream, format, kind="events")
    write_records([], without, format, kind="events")
    assert stream.getvalue() == without.getvalue()


def test_events_without_numbers_are_an_error_too() -> None:
    from ced_model.input_list import Input

    class Broken:
        def timelines(self, sources: Any, **_: Any) -> Any:
            import numpy as np

            for source in sources:
                scores = np.array([[0.9], [np.inf]], np.float32)
                bounds = np.array([0.0, 1.0]), np.array([1.0, 2.0])
                yield TagResult(source, source, 2.0, [], Timeline(scores, *bounds, ["Dog"], 2.0))

    tagger: Any = Broken()
    (record,) = make_records(tagger, [Input("a", "a")], {}, kind="events")
    assert record == {"file": "a", "error": "the result cannot be stored: peak is inf, not a finite number"}


def test_results_of_valid_audio_are_unchanged(random_model: Path, clip: Path) -> None:
    from ced_model.input_list import find_inputs

    tagger = AudioTagger.from_pretrained(random_model)
    (record,) = make_records(tagger, find_inputs([str(clip)]), {"top_k": 3})
    assert [tag["label"] for tag in record["tags"]] == [tag.label for tag in tagger(clip, top_k=3)]
