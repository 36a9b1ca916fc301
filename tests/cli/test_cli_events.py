# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Event formats of other programs, read with third-party libraries."""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
import soundfile
import textgrid
from psds_eval import PSDSEval
from simpleder import load_rttm
from typer.testing import CliRunner

import ced_model
from ced_model import Event
from ced_model.cli.app import app
from ced_model.writers import EVENT_FORMATS, Format

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import crowsetta

Rows = list[tuple[str, float, float, str]]  # recording, onset, offset, label
FORMATS = [str(format) for format in EVENT_FORMATS]
COMBINED = [str(format) for format, each in EVENT_FORMATS.items() if each.combines]
AWKWARD_NAMES = ["a b.wav", "ü 'quoted' \"x\".wav", '"first".wav', "tab\tin.wav", "line\nend.wav", "back\\x20.wav"]
AWKWARD_LABELS = [
    "Dog",
    "Hi-hat, open",
    '"Hey" x',
    'a"b',
    "tab\tin",
    "line\nend",
    "Vögel <&>",
    "back\\x20",
    "a:b = c\r",
]


def unescaped(text: str) -> str:
    """Reverses the escaping of docs/formats.md: each `\\xNN` is a byte."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()).decode()


def read_audacity(path: Path) -> Rows:
    if not path.stat().st_size:
        return []  # crowsetta does not support annotations without labels
    read = crowsetta.formats.seq.AudSeq.from_file(path)
    return [("", *each) for each in zip(read.start_times, read.end_times, map(unescaped, read.labels), strict=True)]


def read_raven(path: Path) -> Rows:
    table = pandas.read_csv(path, sep="\t")
    if not len(table):
        return []  # or without selections
    read = crowsetta.formats.bbox.Raven.from_file(path)
    rows = []
    for box, place, offset in zip(read.to_bbox(), table["Begin Path"], table["File Offset (s)"], strict=True):
        assert box.low_freq == 0 and box.high_freq > 0
        rows.append((Path(unescaped(place)).name, offset, offset + box.offset - box.onset, unescaped(box.label)))
    return rows


def read_dcase(path: Path) -> Rows:
    table = pandas.read_csv(path, sep="\t")
    if len(table):
        lengths = table.groupby("filename").offset.max().rename("duration").reset_index()
        scores = PSDSEval(dtc_threshold=0.5, gtc_threshold=0.5, ground_truth=table, metadata=lengths)
        assert scores.compute_macro_f_score(table)[0] == 1  # the events match themselves
    rows = zip(table.filename, table.onset, table.offset, table.event_label, strict=True)
    return [(Path(unescaped(name)).name, onset, offset, unescaped(label)) for name, onset, offset, label in rows]


def read_rttm(path: Path) -> Rows:
    return [
        (Path(unescaped(name)).name, onset, offset, unescaped(label))
        for name, segments in load_rttm(path).items()
        for label, onset, offset in segments
    ]


def read_textgrid(path: Path) -> Rows:
    read = textgrid.TextGrid.fromFile(str(path))
    rows = [
        ("", float(each.minTime), float(each.maxTime), unescaped(each.mark))
        for tier in read
        for each in tier
        if each.mark
    ]
    assert all(each.maxTime - each.minTime > 1e-5 for tier in read for each in tier) and all(len(tier) for tier in read)
    tiers = crowsetta.formats.seq.TextGrid.from_file(path).tiers
    bounds = [(each.xmin, each.xmax) for tier in tiers for each in tier.intervals]
    assert np.allclose(bounds, [row[1:3] for row in rows], rtol=0, atol=1e-4)  # textgrid rounds times
    return sorted(rows, key=lambda row: row[1:])


def read_labelstudio(path: Path) -> Rows:
    configuration = ElementTree.fromstring(
        next(each for folder in path.parents for each in folder.glob("*.xml")).read_bytes()
    )
    names = {each.tag: each.get("name") for each in configuration.iter()}
    offered = {each.get("value") for each in configuration.iter("Label")}
    rows = []
    for task in json.loads(path.read_bytes()):
        (file,) = parse_qs(urlsplit(task["data"]["audio"]).query, strict_parsing=True)["d"]
        (prediction,) = task["predictions"]
        for region in prediction["result"]:
            assert (region["from_name"], region["to_name"]) == (names["Labels"], names["Audio"])
            assert region["type"] == "labels" and region["original_length"] >= region["value"]["end"] - 1e-6
            (label,) = region["value"]["labels"]
            assert label in offered
            rows.append((Path(file).name, region["value"]["start"], region["value"]["end"], unescaped(label)))
    return rows


READERS: dict[str, Callable[[Path], Rows]] = {
    "audacity": read_audacity,
    "raven": read_raven,
    "dcase": read_dcase,
    "rttm": read_rttm,
    "textgrid": read_textgrid,
    "labelstudio": read_labelstudio,
}


def ced(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["tag", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def expected(resources: Path) -> dict[str, Rows]:
    """The events of each recording with a threshold of 0.25, found by the tagger."""
    tagger = ced_model.AudioTagger()
    found = {path.name: tagger.events(path, 0.25) for path in sorted(resources.glob("*.[fo][lg]*"))}
    return {name: [(name, *event[:3]) for event in events] for name, events in found.items()}


def without_last_digits(path: Path) -> str:
    """The text of a file with rounded scores, because their seventh digit depends on the batches."""
    return re.sub(r"\d+\.\d+(?:e-\d+)?", lambda number: f"{float(number[0]):.5f}", path.read_text(encoding="utf-8"))


def assert_rows(rows: Rows, expected: Rows, has_names: bool = True) -> None:
    def key(row: Any) -> Any:
        return (row[0] if has_names else "", round(row[1], 3), round(row[2], 3), row[3])

    assert sorted(map(key, rows)) == sorted(map(key, expected))


@pytest.mark.parametrize("format", FORMATS)
def test_events_of_one_recording_are_in_a_file_of_the_program(
    format: str, resources: Path, expected: dict[str, Rows], tmp_path: Path
) -> None:
    output = tmp_path / f"events{EVENT_FORMATS[Format(format)].suffix}"
    ced(resources / "loop_tabla.flac", "--format", format, "--threshold", 0.25, "--output", output)
    assert len(expected["loop_tabla.flac"]) > 2
    assert_rows(READERS[format](output), expected["loop_tabla.flac"], format in COMBINED)
    printed = tmp_path / f"printed{output.suffix}"
    printed.write_bytes(ced(resources / "loop_tabla.flac", "--format", format, "--threshold", 0.25).stdout_bytes)
    assert without_last_digits(printed) == without_last_digits(output)


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_of_recordings_is_written_as_a_folder_of_files(
    format: str, resources: Path, expected: dict[str, Rows], tmp_path: Path
) -> None:
    recordings = tmp_path / "recs"
    (recordings / "sub").mkdir(parents=True)
    for name in expected:
        shutil.copy(resources / name, recordings / "sub" / name)
    (recordings / "broken.wav").write_bytes(b"RIFF")
    shutil.copy(resources / "misc_crow.flac", recordings / "sub" / "misc_crow.wav")  # only the extension differs
    output, suffix = tmp_path / "out", EVENT_FORMATS[Format(format)].suffix
    done = ced(recordings, tmp_path / "no.wav", "-f", format, "--threshold", 0.25, "-o", output, code=1)
    assert "broken.wav" in done.stderr and "no.wav" in done.stderr
    for name, rows in expected.items():
        assert_rows(READERS[format](output / "sub" / f"{Path(name).stem}{suffix}"), rows, format in COMBINED)
    sidecar = json.loads((output / f"ced-{format}.json").read_bytes())
    assert sidecar["made_by"]["model"] == "ced-nano" and sidecar["options"]["thresholds"] == 0.25
    assert {Path(each["file"]).name for each in sidecar["records"] if "error" in each} == {"broken.wav", "no.wav"}
    assert all((output / name).is_file() for name in sidecar["files"].values())
    assert len(sidecar["files"]) == len(expected) + 1


@pytest.mark.parametrize("format", COMBINED)
def test_a_folder_of_recordings_is_written_as_one_file(
    format: str, resources: Path, expected: dict[str, Rows], tmp_path: Path
) -> None:
    output = tmp_path / "events.txt"
    ced(resources, tmp_path / "no.wav", "--format", format, "--threshold", 0.25, "--output", output, code=1)
    assert_rows(READERS[format](output), [row for rows in expected.values() for row in rows])
    if format == "raven":
        table, starts, start = pandas.read_csv(output, sep="\t"), {}, 0.0
        for path in sorted(resources.glob("*.[fo][lg]*")):
            starts[str(path)] = start
            start += soundfile.info(path).duration
            assert set(table[table["Begin Path"] == str(path)]["High Freq (Hz)"]) <= {
                soundfile.info(path).samplerate / 2
            }
        difference = table["Begin Time (s)"] - table["File Offset (s)"]
        assert (difference - table["Begin Path"].map(starts)).abs().max() < 1e-3
        assert list(table.Selection) == list(range(1, len(table) + 1)) and set(table.Model) == {"ced-nano"}


@pytest.mark.parametrize("format", FORMATS)
def test_recordings_without_events_have_a_valid_file(format: str, resources: Path, tmp_path: Path) -> None:
    output = tmp_path / f"none{EVENT_FORMATS[Format(format)].suffix}"
    ced(resources / "misc_crow.flac", "--format", format, "--threshold", 1, "--output", output)
    assert READERS[format](output) == []
    assert len(json.loads((tmp_path / f"{output.name}.ced.json").read_bytes())["records"]) == 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_spaces_quotes_and_control_characters_are_read_back(name: str, format: str, clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / name)
    events = [Event(0.05 * number, 0.05 * number + 0.04, label, 0.5) for number, label in enumerate(AWKWARD_LABELS)]
    output = tmp_path / f"out{EVENT_FORMATS[Format(format)].suffix}"
    ced_model.write_events(output, {tmp_path / name: events}, format)
    rows = READERS[format](output)
    assert_rows(rows, [(name, *event[:3]) for event in events], format in COMBINED)


def test_overlapping_events_of_a_class_have_separate_tiers(clip: Path, tmp_path: Path) -> None:
    events = [Event(0.0, 0.3, "Dog", 0.5), Event(0.1, 0.2, "Dog", 0.6), Event(0.3, 0.5, "Dog", 0.7)]
    ced_model.write_events(tmp_path / "a.TextGrid", {clip: events}, "textgrid")
    assert crowsetta.formats.seq.TextGrid.from_file(tmp_path / "a.TextGrid").tier_names == ["Dog", "Dog (2)"]
    assert_rows(read_textgrid(tmp_path / "a.TextGrid"), [("", *event[:3]) for event in events])


@pytest.mark.parametrize(
    ("format", "name"), [("audacity", "out"), ("textgrid", "out"), ("raven", "out.txt"), ("labelstudio", "tasks.json")]
)
def test_new_and_failed_recordings_are_added_to_a_finished_output(
    format: str, name: str, resources: Path, tmp_path: Path
) -> None:
    recordings, output = tmp_path / "recs", tmp_path / name
    recordings.mkdir()
    shutil.copy(resources / "perc_bell.flac", recordings / "b.flac")
    (recordings / "c.wav").write_bytes(b"RIFF")
    options = [recordings, "--format", format, "--threshold", 0.3, "--output"]
    ced(*options, output, code=1)
    assert "exists: use --resume" in ced(*options, output, code=2).stderr
    shutil.copy(resources / "loop_tabla.flac", recordings / "a.flac")
    shutil.copy(resources / "perc_snap.flac", recordings / "c.wav")
    ced(*options, output, "--resume")
    at_once = tmp_path / "at_once" / name
    at_once.parent.mkdir()
    ced(*options, at_once)
    files = sorted(path.relative_to(output.parent) for path in output.parent.glob(f"{output.stem}*/**/*"))
    files += sorted(path.relative_to(output.parent) for path in output.parent.glob(f"{output.stem}*") if path.is_file())
    assert files
    for file in files:
        assert without_last_digits(output.parent / file) == without_last_digits(at_once.parent / file)
    changed = output if output.is_file() else next(output.glob("a.*"))
    changed.write_bytes(changed.read_bytes() + b" ")
    done = ced(*options, output, "--resume", code=2)
    assert f"{changed.name} was changed after it was written" in done.stderr and len(done.stderr.splitlines()) == 1
    ced(*options, output, "--overwrite")
    options[options.index(0.3)] = 0.4
    assert "expected 0.3, as when" in ced(*options, output, "--resume", code=2).stderr


def test_another_format_is_refused_by_its_name(clip: Path, tmp_path: Path) -> None:
    ced(clip, "--format", "audacity", "--output", tmp_path / "a.txt")
    done = ced(clip, "--format", "raven", "--output", tmp_path / "a.txt", "--resume", code=2)
    assert "--format raven: expected audacity, as when" in done.stderr


def test_files_that_others_wrote_are_not_replaced(resources: Path, tmp_path: Path) -> None:
    tabla = shutil.copy(resources / "loop_tabla.flac", tmp_path)
    notes = tmp_path / "loop_tabla.txt"
    notes.write_text("my notes")
    for resume in ([], ["--resume"]):
        done = ced(tabla, "--format", "audacity", "--output", tmp_path, *resume, code=2)
        assert f"{notes} exists: use --overwrite" in done.stderr and len(done.stderr.splitlines()) == 1
    assert notes.read_text() == "my notes"
    with pytest.raises(FileExistsError):
        ced_model.write_events(tmp_path, {tabla: []}, "audacity")
    ced(tabla, "--format", "audacity", "--output", tmp_path, "--overwrite")
    assert len(read_audacity(notes)) == 1


@pytest.mark.parametrize("format", ["audacity", "labelstudio"])
def test_overwriting_removes_the_files_of_recordings_that_no_longer_exist(
    format: str, resources: Path, tmp_path: Path
) -> None:
    names = ["loop_tabla", "misc_burp", "misc_crow", "perc_bell"]
    options = ["--format", format, "--output", tmp_path / "labels"]
    ced(*(resources / f"{name}.flac" for name in names), *options)
    files = {name: tmp_path / "labels" / f"{name}{EVENT_FORMATS[Format(format)].suffix}" for name in names}
    files["misc_burp"].write_text("edited")
    ced(resources / "perc_bell.flac", *options, "--overwrite")
    assert [name for name in names if files[name].exists()] == ["misc_burp", "perc_bell"]
    ced(resources / "perc_bell.flac", *options, "--resume")


def test_an_interrupted_output_continues_from_its_journal(
    resources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the files and the sidecar, which is written last."""
    from ced_model import journal

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    whole, output = tmp_path / "whole.txt", tmp_path / "out.txt"
    options = ["--format", "raven", "--threshold", 0.3]
    ced(resources, *options, "--output", whole)
    ced(resources / "perc_bell.flac", *options, "--output", output)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "put_file", interrupt)
        ced(resources, *options, "--resume", "--output", output, code=130)
    assert len(read_raven(output)) == len(read_raven(whole))
    ced(resources, *options, "--resume", "--output", output)
    table = pandas.read_csv(output, sep="\t")
    assert list(table.Selection) == list(range(1, 1 + len(read_raven(whole))))
    assert not output.with_name("out.txt.journal").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("RECS --format audacity", "a file in audacity format can have only one recording: add --output DIR/"),
        (
            "RECS --format textgrid --output TMP/a.TextGrid",
            "a file in textgrid format can have only one recording: add --output",
        ),
        ("RECS --output TMP/a.txt", "add --format table|audacity|raven"),
        ("RECS --output TMP/a.tsv", "add --format dcase"),
        ("RECS --format raven --top-k 3", "--top-k has no effect with --format raven, which has events"),
        ("RECS --format raven --output TMP/no/dir/", "a folder in a folder that exists; there is no folder"),
        ("RECS --format csv --min-duration 1", "--min-duration needs --events"),
    ],
)
def test_wrong_usage_is_one_line(arguments: str, message: str, resources: Path, tmp_path: Path) -> None:
    done = ced(*arguments.replace("RECS", str(resources)).replace("TMP", str(tmp_path)).split(), code=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_errors_of_write_events_state_the_expected_value(clip: Path, tmp_path: Path) -> None:
    for arguments, message in [
        ((tmp_path / "a", {clip: []}, "mp3"), "audacity, raven, dcase, rttm, textgrid, labelstudio"),
        ((tmp_path / "a.txt", [], "raven"), "a dictionary of recordings and their events"),
        ((tmp_path / "a.txt", {clip: [Event(1.0, 1.0, "Dog", 0.5)]}, "raven"), "an offset after it"),
        ((tmp_path / "a.txt", {clip: [], "b.wav": []}, "audacity"), "b.wav"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            ced_model.write_events(*arguments)
    assert not list(tmp_path.iterdir())


WIDE = [("--wide", "csv"), ("--wide", "parquet"), ("--timeline", "csv"), ("--timeline", "parquet")]


def read_table(path: Path) -> pandas.DataFrame:
    return pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)


@pytest.mark.parametrize(("option", "suffix"), WIDE)
def test_tables_have_a_column_for_each_class(option: str, suffix: str, resources: Path, tmp_path: Path) -> None:
    output = tmp_path / f"scores.{suffix}"
    tagger = ced_model.AudioTagger()
    ced(resources, tmp_path / "no.wav", option, "--output", output, code=1)
    table = read_table(output)
    assert list(table.columns[-528:-1]) == list(tagger.labels) and table.error.notna().sum() == 1
    path = resources / "loop_tabla.flac"
    rows = table[table.file == str(path)]
    if option == "--wide":
        (scores,) = ({tag.label: tag.score for tag in tags} for tags in tagger([path], top_k=527))
        assert np.allclose(rows[list(tagger.labels)], [[scores[label] for label in tagger.labels]], atol=1e-5)
    else:
        timeline = tagger.timeline(path)
        assert np.allclose(rows[list(tagger.labels)], timeline.scores, atol=1e-5)
        assert np.allclose(rows[["start_s", "end_s"]], np.stack([timeline.start_s, timeline.end_s], axis=1))


@pytest.mark.parametrize(("option", "suffix"), [*WIDE, ("--wide", "json"), ("--timeline", "jsonl")])
def test_wide_tables_are_continued_with_the_same_classes_only(
    option: str, suffix: str, resources: Path, clip: Path, tmp_path: Path
) -> None:
    output, at_once = tmp_path / f"scores.{suffix}", tmp_path / f"at_once.{suffix}"
    options = [option, "-l", "Hi-hat", "-l", "Dog", "--spreadsheet-safe"] if suffix == "csv" else [option, "-l", "Dog"]
    odd = tmp_path / "=odd, 'name'\n.wav"
    ced(odd, clip, *options, "-o", output, code=1)
    shutil.copy(resources / "perc_bell.flac", odd)
    ced(odd, clip, *options, "-o", output, "--resume")
    ced(odd, clip, *options, "-o", at_once)
    if suffix == "parquet":
        pandas.testing.assert_frame_equal(read_table(output), read_table(at_once), atol=1e-6)
    else:
        assert without_last_digits(output) == without_last_digits(at_once)
    other = options[options.index("Dog") - 1 :]
    if suffix in ("csv", "parquet"):
        done = ced(odd, clip, resources, option, *other[2:], "-o", output, "--resume", code=2)
        assert "has scores of different classes" in done.stderr
    done = ced(odd, clip, *other[2:], "-o", output, "--resume", code=2)
    assert "cannot be resumed" in done.stderr


def test_names_of_columns_are_safe_in_spreadsheets(clip: Path, tmp_path: Path) -> None:
    names, output = tmp_path / "names.csv", tmp_path / "scores.csv"
    names.write_text("Dog,=1+1\nCat,'cat\n")
    options = ["--wide", "--label-map", names, "--label", "=1+1", "--label", "'cat", "-o", output]
    ced(clip, *options, "--spreadsheet-safe")
    assert output.read_text().splitlines()[0] == "file,duration_s,'=1+1,'cat,error"
    done = ced(clip, tmp_path / "no.wav", *options, "--spreadsheet-safe", "--resume", code=1)
    assert "1 result of" in done.stderr and len(output.read_text().splitlines()) == 3
    assert "cannot be resumed" in ced(clip, *options, "--resume", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--wide", "--wide needs --format csv, parquet, json or jsonl"),
        ("--timeline --top-k 3", "--timeline, which writes all scores; choose classes with --labels"),
        ("--wide --threshold 0.3 -f csv", "--wide, which writes all scores; choose classes with --labels"),
        ("--timeline --format raven", "--timeline has no effect with --format raven, which has events"),
        ("--timeline --events", "--timeline has no effect with --events"),
        ("--timeline --wide -f csv", "--wide has no effect with --timeline"),
        ("--timeline --average max", "--average has no effect with --timeline"),
    ],
)
def test_options_that_contradict_wide_tables_are_refused(arguments: str, message: str, clip: Path) -> None:
    done = ced(clip, *arguments.split(), code=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_timeline_is_printed_with_the_best_classes_of_each_window(resources: Path) -> None:
    lines = ced(resources / "loop_tabla.flac", "--timeline").stdout.splitlines()
    assert len(lines) == 11 and "Music 0.9" in lines[1]


@pytest.mark.parametrize(
    ("name", "count"), [("formats.md", 8), ("tutorials/first_tags.md", 1), ("tutorials/events.md", 1)]
)
def test_the_commands_of_a_page_print_the_documented_output(
    name: str, count: int, resources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (resources.parent / "docs" / name).read_text(encoding="utf-8")
    shutil.copytree(resources, tmp_path / "resources")
    monkeypatch.chdir(tmp_path)
    shown, printed = tmp_path / "shown.log", tmp_path / "printed.log"
    commands = [
        each for block in re.findall(r"```console\n\$ (.*?)```", page, re.DOTALL) for each in block.split("\n$ ")
    ]
    assert len(commands) == count
    for command in commands:
        line, _, text = command.strip("\n").partition("\n")
        program, *arguments = line.split()
        shown.write_text(text and f"{text}\n", encoding="utf-8")
        assert program in ("ced", "cat")
        output = Path(arguments[0]).read_bytes() if program == "cat" else ced(*arguments[1:]).stdout_bytes
        printed.write_bytes(output)
        assert without_last_digits(printed) == without_last_digits(shown), line


def test_recordings_with_the_same_name_have_separate_files(clip: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["x/a.wav", "y/a.wav", "y/a.flac", "y/A.aiff", os.fsdecode(b"y/b\xff.wav"), f"y/{'n' * 250}.wav"]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, name)
    ced(*names, "--format", "raven", "--output", "out")
    files = json.loads(Path("out/ced-raven.json").read_bytes())["files"]
    assert list(files.values())[:4] == [
        "a.selections.txt",
        "a.wav.selections.txt",
        "a.flac.selections.txt",
        "A.aiff.selections.txt",
    ]
    assert all(Path("out", file).is_file() for file in files.values()) and len(set(files.values())) == len(names)
    ced(*names[3:], "z.wav", *names[:3], "--format", "raven", "--output", "out", "--resume", code=1)
    assert json.loads(Path("out/ced-raven.json").read_bytes())["files"] == files


@pytest.mark.parametrize(
    ("old", "new"),
    [("{", "["), ('"made_by"', '"maker"'), ('"events": []', '"events": 3'), ('"a.selections.txt"', '"../a.txt"')],
)
def test_a_damaged_sidecar_is_reported_and_not_changed(old: str, new: str, clip: Path, tmp_path: Path) -> None:
    recording = shutil.copy(clip, tmp_path / "a.wav")
    options = [recording, "--format", "raven", "--threshold", 1, "--output", tmp_path / "out"]
    ced(*options)
    sidecar = tmp_path / "out" / "ced-raven.json"
    damaged = sidecar.read_text().replace(old, new, 1)
    assert damaged != sidecar.read_text()
    sidecar.write_text(damaged)
    done = ced(*options, "--resume", code=2)
    assert "ced-raven.json is damaged" in done.stderr and len(done.stderr.splitlines()) == 1
    assert sidecar.read_text() == damaged and len(list(tmp_path.rglob("*"))) == 4
    ced(*options, "--overwrite")
