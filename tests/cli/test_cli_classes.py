# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Classes, groups, thresholds, smoothing and times of `ced tag`, on real recordings with the bundled model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from typer.testing import CliRunner

from ced_model import AudioTagger
from ced_model.cli.app import app

Run = Callable[..., Any]
SMOOTHING = "--threshold 0.1 --off-threshold 0.05 --smooth 3 --smoothing mean --exclude Music".split()


@pytest.fixture
def ced() -> Run:
    """Runs the command in this process: `ced(*arguments, code=expected exit code)`."""

    def run(*arguments: Any, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.stderr
        return result

    return run


@pytest.fixture(scope="module")
def tagger() -> AudioTagger:
    return AudioTagger()


@pytest.fixture
def tabla(resources: Path) -> Path:
    return resources / "loop_tabla.flac"


def events_of(result: Any) -> list[tuple[float, float, str]]:
    (record,) = json.loads(result.stdout)
    return [(event["onset_s"], event["offset_s"], event["label"]) for event in record["events"]]


def error_of(result: Any) -> str:
    line = result.stderr.splitlines()[-1]
    assert line.startswith("ced: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--label", "Percussion,Music..."], {"labels": "Percussion,Music...", "thresholds": 0.5}),
        (
            ["-l", "Percussion", "--labels", "/m/04rlf", "--threshold", "0.2"],
            {"labels": ["Percussion", "Music"], "thresholds": 0.2},
        ),
        (["--threshold", "Percussion=0.2,Music...=0.4"], {"thresholds": {"Percussion": 0.2, "Music...": 0.4}}),
        (["--threshold", "Percussion=0.1", "--threshold", "0.6"], {"thresholds": {"Percussion": 0.1, "*": 0.6}}),
        (
            SMOOTHING,
            {"thresholds": 0.1, "off_threshold": 0.05, "smooth_s": 3, "smoothing": "mean", "exclude": "Music"},
        ),
        (
            ["--threshold", "0.2", "--max-duration", "2", "--merge-gap", "1", "--min-duration", "1", "--hop", "0.5"],
            {"thresholds": 0.2, "max_duration_s": 2, "merge_gap_s": 1, "min_duration_s": 1, "hop_s": 0.5},
        ),
    ],
)
def test_options_of_events_are_those_of_the_library(ced, tagger, tabla, arguments, options):
    found = events_of(ced("tag", tabla, "--events", "--json", *arguments))
    expected = tagger.events(tabla, **options)
    assert found and found == [(round(event.onset_s, 6), round(event.offset_s, 6), event.label) for event in expected]


def test_thresholds_and_own_names_are_read_from_files(ced, tagger, tabla, tmp_path):
    thresholds, names = tmp_path / "thresholds.csv", tmp_path / "names.csv"
    thresholds.write_text("label,threshold,min_duration_s\nPercussion,0.2,\nMusic...,0.4,20\n*,0.95,\n")
    names.write_text("Percussion,drums\nMusic...,\n")
    found = events_of(ced("tag", tabla, "--events", "--json", "--thresholds", thresholds))
    assert {label for _, _, label in found} == {"Percussion"}
    found = events_of(ced("tag", tabla, "--events", "--json", "--threshold", "0.2", "--label-map", names))
    assert "drums" in {label for _, _, label in found} and "Music" not in {label for _, _, label in found}
    result = ced("tag", tabla, "--json", "--thresholds", thresholds, "--threshold", "Percussion=0.1")
    assert [tag["label"] for tag in json.loads(result.stdout)[0]["tags"]] == ["Music...", "Percussion"]
    names.write_text("Percussion,drums\nDgo,dog\n")
    refused = error_of(ced("tag", tabla, "--label-map", names, code=2))
    assert refused == f"ced: {names}, line 2: 'Dgo': expected a class of the model; did you mean 'Dog'?"
    thresholds.write_text("label,threshold\nDog,0.5\nCat,1.5\n")
    for events in (["--events"], []):
        refused = error_of(ced("tag", tabla, *events, "--thresholds", thresholds, code=2))
        assert refused == f"ced: {thresholds}, line 3, threshold: expected a score from 0 to 1, found 1.5"
    names.write_text("Percussion,drums\nMusic...,\n")
    own = ["--label-map", names, "--json"]
    (record,) = json.loads(ced("tag", tabla, *own, "--threshold", "drums=0.01").stdout)
    assert [tag["label"] for tag in record["tags"]] == ["drums"]
    (record,) = json.loads(ced("tag", tabla, *own, "--exclude", "drums", "--top-k", "527").stdout)
    assert not {"drums", "Percussion", "Music"} & {tag["label"] for tag in record["tags"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "Dgo"], "--labels Dgo: expected a class of the model; did you mean 'Dog'?"),
        (["--label", "Dogs..."], "--labels Dogs...: expected a group of AudioSet's ontology"),
        (["--exclude", "Dgo"], "--exclude Dgo: expected a class of the model"),
        (["--threshold", "loud"], "--threshold loud: expected a score, or CLASS=SCORE"),
        (["--threshold", "Dog=loud"], "--threshold Dog=loud: expected a score, or CLASS=SCORE"),
        (["--threshold", "Dog=0.5,Cat"], "--threshold Dog=0.5,Cat: expected a score, or CLASS=SCORE"),
        (["--threshold", "Dgo=0.5"], "--threshold Dgo: expected a class of the model"),
        (["--threshold", "Dog=1.5"], "--threshold 1.5: expected a score from 0 to 1"),
        (["--thresholds", "no-such.csv"], "no-such.csv': No such file"),
        (["--label-map", "no-such.csv"], "no-such.csv': No such file"),
        (["--smooth", "1"], "--smooth needs --events"),
        (["--smooth", "inf", "--events"], "--smooth inf: expected at most 3600 seconds"),
        (["--off-threshold", "-1", "--events"], "--off-threshold -1: expected a score from 0 to 1"),
        (["--label", "Human voice"], "did you mean 'Human voice...', all classes below it?"),
        (["--label", ""], "no class is left: none was given"),
        (["--label", "Music", "--exclude", "Music..."], "no class is left"),
        (["--events", "--label", "Music", "--exclude", "Music..."], "no class is left"),
        (["--off-threshold", "0.1"], "--off-threshold needs --events"),
        (["--max-duration", "1"], "--max-duration needs --events"),
        (["--events", "--off-threshold", "0.8"], "--off-threshold 0.8: expected at most the threshold, which is 0.5"),
        (["--events", "--smoothing", "max"], "--smoothing max: expected median or mean"),
        (["--timezone", "UTC"], "--timezone needs --start-time"),
        (["--start-time", "today"], "--start-time today: expected auto, none or a time"),
        (["--start-time", "auto", "--timezone", "Mars"], "--timezone Mars: expected a time zone such as Europe/Berlin"),
    ],
)
def test_invalid_options_are_refused_in_one_line(ced, tabla, arguments, message):
    assert message in error_of(ced("tag", tabla, *arguments, code=1 if "no-such" in message else 2))


def test_records_have_the_time_of_the_recording_on_request(ced, tabla, tmp_path):
    shutil.copy(tabla, tmp_path / "SITE_20240501_053000.flac")
    shutil.copy(tabla, tmp_path / "tabla.flac")
    plain = json.loads(ced("tag", tmp_path, "--json").stdout)
    assert all("recorded_at" not in record for record in plain)
    found = json.loads(ced("tag", tmp_path, "--json", "--start-time", "auto", "--timezone", "Europe/Berlin").stdout)
    assert [record.get("recorded_at") for record in found] == ["2024-05-01T05:30:00+02:00", None]
    (local,) = json.loads(
        ced("tag", tmp_path / "SITE_20240501_053000.flac", "--events", "--json", "--start-time", "auto").stdout
    )
    assert local["recorded_at"] == "2024-05-01T05:30:00"
    (given,) = json.loads(ced("tag", tabla, "--json", "--start-time", "2024-05-01 05:30+02:00").stdout)
    assert given["recorded_at"] == "2024-05-01T05:30:00+02:00"
    assert "is for one recording, but there are 2" in error_of(
        ced("tag", tmp_path, "--start-time", "2024-05-01T05:30", code=2)
    )


def test_events_after_the_last_date_there_is_are_printed_in_seconds(ced, tabla):
    options = ["--events", "--label", "Music", "--start-time", "9999-12-31T23:59:58"]
    assert "0.0 s – 10.7 s" in ced("tag", tabla, *options).stdout


def test_tables_have_the_time_of_the_recording_on_request(ced, tabla, tmp_path):
    path = shutil.copy(tabla, tmp_path / "20240501_053000.flac")
    options = ["--events", "--label", "Music...", "--start-time", "auto"]
    for suffix in ("csv", "parquet", "jsonl"):
        output = tmp_path / f"events.{suffix}"
        ced("tag", path, *options, "-o", output)
        ced("tag", path, *options, "-o", output, "--resume")
        if suffix != "jsonl":
            import pandas

            table = pandas.read_csv(output) if suffix == "csv" else pandas.read_parquet(output)
            assert list(table["recorded_at"]) == ["2024-05-01T05:30:00"] * len(table) and len(table)
    assert "2024-05-01 05:30:00" in ced("tag", path, *options).stdout


def test_the_picture_has_the_requested_classes(ced, tabla, tmp_path, monkeypatch):
    from ced_model.cli import plot

    figures = []
    monkeypatch.setattr(plot, "save_figure", lambda figure, file: figures.append(figure))
    ced("plot", tabla, "-o", tmp_path / "a.png", "--label", "Music...,Percussion,Dog", "--exclude", "Dog")
    names = [label.get_text() for label in figures[0].axes[1].get_yticklabels()]
    assert set(names) == {"Music...", "Percussion"}
    assert "--labels Dgo" in error_of(ced("plot", tabla, "-o", tmp_path / "b.png", "-l", "Dgo", code=2))


def test_a_short_sound_in_a_padded_clip_is_found_by_the_maximum(ced, resources, tmp_path):
    import numpy as np

    sound, rate = soundfile.read(resources / "misc_burp.flac")
    soundfile.write(tmp_path / "clip.wav", np.concatenate([np.zeros(4 * rate), sound, np.zeros(5 * rate)]), rate)
    (record,) = json.loads(ced("tag", tmp_path / "clip.wav", "--average", "max", "--json", "--threshold", "0.3").stdout)
    assert "Burping, eructation" in [tag["label"] for tag in record["tags"]]
