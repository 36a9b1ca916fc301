# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced evaluate --events` with strong labels."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ced_model.cli.app import app
from ced_model.psds import Frames, psds
from ced_model.strong_labels import StrongEvent

LABELS = """filename	onset	offset	event_label
misc_burp.flac	0.0	0.5	Burping, eructation
loop_tabla.flac	0.0	4.0	Music
misc_crow.flac
"""


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels.tsv").write_text(LABELS.replace("misc_crow.flac", "misc_crow.flac\t\t\t"))
    return tmp_path / "labels.tsv"


def ced(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.stderr
    return result


def test_a_model_and_its_file_of_events_are_compared_with_the_same_figures(
    labels: Path, resources: Path, tmp_path: Path
) -> None:
    finding = ["--threshold", 0.1, "--hop", 0.5, "--smooth", 1.5, "--threads", 1]
    table = tmp_path / "classes.csv"
    collars = ["--t-collar", 1, "--percentage-of-length", 0.2, "--time-resolution", 0.5]
    arguments = ["evaluate", labels, "--events", *collars]
    found = ced(*arguments, "--audio-root", resources, *finding, "--json", "--per-class", table)
    report = json.loads(found.stdout)
    assert report["model"] == "ced-nano" and report["t_collar"] == 1.0 and report["num_recordings"] == 3
    assert report["segment_based"]["micro"]["f_measure"] > 0.3
    rows = list(csv.DictReader(table.open()))
    assert [row["label"] for row in rows] == ["Burping, eructation", "Music"] and rows[1]["references"] == "1"
    for name in ("found.tsv", "found.csv", "found.jsonl"):
        output = ["--output", tmp_path / name, *(["--format", "dcase"] if name.endswith("tsv") else ["--events"])]
        ced("tag", *sorted(resources.glob("*.flac")), *finding, *output)
        compared = json.loads(ced(*arguments, "--results", tmp_path / name, "--json").stdout)
        for kind in ("event_based", "segment_based", "per_class"):
            assert compared[kind] == report[kind]
    text = ced(*arguments, "--results", tmp_path / "found.csv")
    assert "3 recordings, 2 events of 2 classes" in text.stdout and "segment-based micro" in text.stdout
    assert max(map(len, text.stdout.splitlines())) <= 100
    assert "have no labels, such as" in text.stderr and "of classes that the labels lack" in text.stderr


def test_the_commands_of_the_docs_print_the_documented_output(
    resources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for recording in resources.glob("*.flac"):
        (tmp_path / recording.name).symlink_to(recording)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```text\n(\$ .*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    commands = [each.partition("\n") for block in blocks for each in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    assert [command.split()[0] for command, _, _ in commands] == ["cat", "ced", "ced", "ced"]
    for command, _, output in commands:
        program, *arguments = command.split()
        if program == "cat":
            Path(arguments[0]).write_text(output, encoding="utf-8")
            continue
        names = [
            name for each in arguments for name in (sorted(map(str, Path().glob(each))) if "*" in each else [each])
        ]
        printed = ced(*names, "--threads", 1).stdout if "--results" not in names else ced(*names).stdout
        assert printed == output or (not output and "--json" in names and json.loads(printed)["event_based"])


@pytest.mark.parametrize("command", [["evaluate"], ["finetune", "--output", "{folder}/model"]])
def test_strong_labels_without_the_option_are_recognised(labels: Path, resources: Path, command: list[str]) -> None:
    arguments = [each.format(folder=labels.parent) for each in command]
    result = CliRunner().invoke(app, [*arguments, str(labels), "--audio-root", str(resources)])
    assert result.exit_code == 1 and "are columns of strong labels: use --events" in result.stderr


def test_a_label_map_applies_to_events_and_labels(labels: Path, resources: Path, tmp_path: Path) -> None:
    (tmp_path / "own.tsv").write_text("misc_burp.flac\t0\t0.5\tmouth\n")
    (tmp_path / "map.csv").write_text('"Burping, eructation",mouth\nCough,mouth\n')
    arguments = ["evaluate", tmp_path / "own.tsv", "--events", "--audio-root", resources, "--label-map"]
    report = json.loads(ced(*arguments, tmp_path / "map.csv", "--threshold", 0.1, "--json").stdout)
    assert [row["label"] for row in report["per_class"]] == ["mouth"] and report["per_class"][0]["predictions"] == 1


def test_a_class_without_detected_events_is_noted_and_can_count_as_zero(labels: Path, resources: Path) -> None:
    arguments = ["evaluate", labels, "--events", "--audio-root", resources, "--threshold", 1, "--json"]
    found = ced(*arguments)
    assert json.loads(found.stdout)["event_based"]["macro"]["f_measure"] is None
    assert "no events of 'Burping, eructation', 'Music'" in found.stderr
    found = ced(*arguments, "--empty-system-output-handling", "zero_score")
    assert json.loads(found.stdout)["event_based"]["macro"]["f_measure"] == 0 and "note" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{labels}", "--t-collar", "0.1"], "--t-collar needs --events"),
        (["{labels}", "--results", "x.csv"], "--results needs --events"),
        (["{labels}", "--events", "--split", "test"], "--split has no effect with --events"),
        (["{labels}", "--events", "--results", "{labels}", "--hop", "1"], "--hop has no effect with --results"),
        (["{labels}", "--events", "--results", "{labels}", "--psds"], "--psds has no effect with --results"),
        (["{labels}", "--events", "--t-collar", "0"], "--t-collar 0: expected more than 0 seconds"),
        (["{labels}", "--events", "--percentage-of-length", "20"], "--percentage-of-length 20: expected a share"),
        (["{labels}", "--events", "--labels", "Dog", "--audio-root", "{resources}"], "--labels Dog: expected classes"),
        (["{labels}", "--events", "--labels", "Dgo", "--results", "{labels}"], "--labels Dgo: expected classes of"),
        (["{labels}", "--events", "--threshold", "2"], "--threshold 2: expected a score from 0 to 1"),
        (["{other}", "--events", "--per-class", "{other}", "--overwrite"], "another name; this file has the labels"),
        (["{labels}", "--events"], "labels.tsv, line 2: .*misc_burp.flac: there is no such file"),
        (["{resources}", "--events"], "is a folder: give the table of strong labels"),
        (["missing.tsv", "--events"], "missing.tsv: there is no such file or folder"),
        (["--events"], "missing DATA: a table of strong labels"),
        (["{labels}", "--events", "--audio-root", "{resources}", "--psds"], "PSDS requires sed_scores_eval: pip"),
        (["{labels}", "--events", "--results", "{other}"], "other.csv has none of the 3 recordings of the labels"),
    ],
)  # fmt: skip
def test_events_that_cannot_be_compared_are_refused_in_one_line(
    labels: Path, resources: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    (tmp_path / "other.csv").write_text("x.wav\t0\t1\tDog\n")
    places = {"labels": labels, "resources": resources, "other": tmp_path / "other.csv"}
    result = CliRunner().invoke(app, ["evaluate", *(each.format(**places) for each in arguments)])
    line = [line for line in result.stderr.splitlines() if line.startswith("ced: ")]
    assert result.exit_code in (1, 2) and len(line) == 1 and not result.stdout
    assert re.search(reason, line[0]), line


# With sed_scores_eval, in a separate environment (pandas below 3), see docs/evaluation.md


@pytest.mark.psds
def test_the_psds_is_that_of_the_dcase_scenarios(labels: Path, resources: Path) -> None:
    arguments = ["evaluate", labels, "--events", "--audio-root", resources, "--psds", "--json"]
    report = json.loads(ced(*arguments).stdout)
    assert 0 <= report["PSDS1"] <= report["PSDS2"] <= 1


@pytest.mark.psds
def test_scores_that_are_the_labels_have_a_psds_of_1_and_constant_ones_of_0() -> None:
    events = [StrongEvent(1.0, 3.0, "Dog"), StrongEvent(5.0, 6.0, "Cat")]  # type: ignore[arg-type]
    bounds = np.arange(11) * 1.0
    scores = np.zeros((10, 2), np.float32)
    scores[1:3, 1] = scores[5:6, 0] = 0.9
    found = psds({"a": Frames(scores, bounds, 10.0)}, {"a": events}, ["Cat", "Dog"])
    assert found == pytest.approx({"PSDS1": 1.0, "PSDS2": 1.0})
    constant = psds({"a": Frames(np.full_like(scores, 0.5), bounds, 10.0)}, {"a": events}, ["Cat", "Dog"])
    assert constant["PSDS1"] == pytest.approx(0.0)
    alone = psds({"a": Frames(scores[:, 1:], bounds, 10.0)}, {"a": events[:1]}, ["Dog"])
    assert alone == pytest.approx({"PSDS1": 1.0})
