# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced evaluate` with labelled clips."""

import contextlib
import csv
import io
import json
import math
import os
import pty
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_process import start
from sklearn import metrics
from typer.testing import CliRunner

from ced_model import AudioTagger
from ced_model.audioset import AUDIOSET_CLASSES
from ced_model.class_files import read_thresholds
from ced_model.cli.app import app
from ced_model.cli.evaluate import CONFUSED_HEAD, table_lines
from ced_model.cli.terminal import put
from ced_model.evaluation import Evaluation, classification_metrics, evaluate
from ced_model.labelled import LabelledClips, read_labelled

Run = Callable[..., Any]
REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "sklearn", "scipy", "datasets", "pandas", "pyarrow", "soundfile", "rich")

SOUNDS = {"misc_crow": "Crow;Bird", "perc_bell": "Bell", "loop_tabla": "Tabla;Drum", "misc_burp": "/m/03q5_w"}
LABELS = ["Burping, eructation", "Bird", "Crow", "Drum", "Tabla", "Bell"]  # in the order of AudioSet


@pytest.fixture
def ced(random_model: Path) -> Run:
    """Runs `ced evaluate ARGUMENTS… --model` in this process: `ced(*arguments, code=expected exit code)`."""

    def run(*arguments: Any, code: int = 0, model: Any = random_model) -> Any:
        options = [] if model is None else ["--model", str(model)]
        result = CliRunner().invoke(app, ["evaluate", *map(str, arguments), *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.stderr
        return result

    return run


@pytest.fixture
def table(resources: Path, tmp_path: Path) -> Path:
    rows = [f"{resources / name}.flac,{label}\n" for name, label in SOUNDS.items()]
    (tmp_path / "sounds.csv").write_text("path,labels\n" + "".join(rows))
    return tmp_path / "sounds.csv"


@pytest.fixture
def folder(resources: Path, tmp_path: Path) -> Path:
    """Two classes in each of the splits train, validation and test."""
    for split in ("train", "validation", "test"):
        for name, label in (("misc_crow", "Crow"), ("perc_snap", "Bell")):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            shutil.copy(resources / f"{name}.flac", tmp_path / "data" / split / label)
    return tmp_path / "data"


def last_line(text: str) -> str:
    """The last line, which begins with the command's name."""
    line = text.splitlines()[-1]
    assert line.startswith("ced: ") and "Traceback" not in text, text
    return line


# Figures


def test_the_table_fits_80_columns_and_agrees_with_json(ced: Run, table: Path) -> None:
    shown = ced(table)
    report = json.loads(ced(table, "--json").stdout)
    lines = shown.stdout.splitlines()
    assert lines[0] == "4 clips, multi-label; 6 of 6 classes present"
    assert max(map(len, lines)) <= 80
    figures = {line.split()[0]: line.split()[1] for line in lines[2:8]}
    intervals = {line.split()[0]: line.split()[2] for line in lines[2:8]}
    shown_bounds = {
        name: "–".join("∞" if bound is None else f"{bound:.3f}" for bound in bounds)
        for name, bounds in report["intervals"].items()
    }
    assert intervals == shown_bounds and lines[1].strip() == "95% interval"
    assert figures == {name: f"{report[name]:.3f}" for name in ("mAP", "mAUC", "d_prime", "top_1", "ECE", "Brier")}
    if report["calibration"] is not None:
        assert report["calibration"].split()[0] == "ECE" and lines[8].startswith("ECE is large because")
    head = next(index for index, line in enumerate(lines) if line.startswith("positives"))
    classes = [line.split(None, 4) for line in lines[head + 1 :]]
    assert {item[4] for item in classes} == set(LABELS)
    assert [float(item[1]) for item in classes] == sorted((float(item[1]) for item in classes), reverse=True)
    assert shown.stderr.startswith("model: ") and "4 of 4 inputs" in shown.stderr


def test_json_has_the_figures_of_scikit_learn(ced: Run, table: Path, tmp_path: Path, random_model: Path) -> None:
    report = json.loads(ced(table, "--json", "--predictions", tmp_path / "p.npz").stdout)
    with np.load(tmp_path / "p.npz") as file:
        files, labels, targets, scores = (file[name] for name in ("files", "labels", "targets", "scores"))
    assert [Path(path).stem for path in files] == list(SOUNDS) and labels.tolist() == LABELS
    assert targets.dtype == scores.dtype == np.float32 and targets.sum() == 6
    tagger = AudioTagger.from_pretrained(random_model)
    for path, row in zip(files, scores, strict=True):
        tags = {tag.label: tag.score for tag in tagger(str(path), labels=LABELS)}
        assert row == pytest.approx([tags[label] for label in LABELS], abs=1e-6)
    assert report["mAP"] == pytest.approx(metrics.average_precision_score(targets, scores), abs=1e-9)
    assert report["mAUC"] == pytest.approx(metrics.roc_auc_score(targets, scores), abs=1e-9)
    assert report["Brier"] == pytest.approx(((scores.astype(float) - targets) ** 2).mean(), abs=1e-9)
    assert (report["engine"], report["compute_type"]) == ("onnx", "float32")
    assert report["num_clips"] == 4 and report["num_classes"] == 6 and report["failed"] == []
    assert report["problem_type"] == "multi_label_classification"
    assert [item["label"] for item in report["per_class"]] == LABELS


def test_the_table_of_classes_is_csv(ced: Run, table: Path, tmp_path: Path) -> None:
    report = json.loads(ced(table, "--json", "--per-class", tmp_path / "classes.csv").stdout)
    with open(tmp_path / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    mids = {name: mid for mid, name in AUDIOSET_CLASSES}
    assert [(row["label"], row["mid"]) for row in rows] == [(label, mids[label]) for label in LABELS]
    columns = ["label", "mid", "positives", "AP", "AUC", "d_prime", "best_F1", "best_threshold"]
    (tmp_path / "report.json").write_text(json.dumps(report))
    for path in (tmp_path / "classes.csv", tmp_path / "report.json"):  # as `ced tag --thresholds` reads them
        found = read_thresholds(path)
        assert found == {item["label"]: {"threshold": item["best_threshold"]} for item in report["per_class"]}
    for row, item in zip(rows, report["per_class"], strict=True):
        assert list(row) == columns == list(item)
        assert int(row["positives"]) == item["positives"] == 1
        for name in columns[3:]:
            assert item[name] == (float(row[name]) if row[name] else None)
            assert item[name] is None or math.isfinite(item[name])


def test_undefined_figures_are_empty_or_null(ced: Run, table: Path, tmp_path: Path, resources: Path) -> None:
    table.write_text(f"path,Crow,Bell,Dog\n{resources}/misc_crow.flac,1,1,0\n")
    report = json.loads(ced(table, "--json", "--per-class", tmp_path / "classes.csv").stdout)
    assert report["mAP"] == 1 and report["mAUC"] is report["d_prime"] is None
    assert report["num_classes_present"] == 2 and report["num_classes"] == 3
    rows = (tmp_path / "classes.csv").read_text().splitlines()
    assert "Dog,/m/0bt9lr,0,,,,," in rows and any(re.match(r"Crow,/m/04s8yn,1,1.0,,,1.0,0\.\d+$", row) for row in rows)
    assert "mAUC          –" in ced(table).stdout


def test_the_best_and_the_worst_of_many_classes_are_shown() -> None:
    random = np.random.default_rng(0)
    labels = [name for _, name in AUDIOSET_CLASSES]
    targets = (random.random((40, len(labels))) < 0.2).astype(np.float32)
    scores = random.random((40, len(labels)), dtype=np.float32)
    found = classification_metrics(targets, scores, labels=labels)
    clips = LabelledClips([str(index) for index in range(40)], targets, labels)
    lines = table_lines(Evaluation(found, clips, scores, [], []))
    assert len(lines) == 25 and max(map(len, lines)) <= 80
    order = sorted((item for item in found.per_class if item.positives), key=lambda item: -item.average_precision)
    assert [line[32:] for line in lines[-11:-6]] == [item.label for item in order[:5]]
    assert [line[32:] for line in lines[-5:]] == [item.label for item in order[-5:]]


NUMBERED = {"1 - Crow": "misc_crow", "2 - Bell": "perc_bell", "3 - Hand drums": "loop_tabla"}


@pytest.fixture
def numbered(resources: Path, tmp_path: Path) -> Path:
    """A folder of clips for each of three classes, named as in data sets: with numbers, and one with another name."""
    for label, name in NUMBERED.items():
        (tmp_path / "numbered" / label).mkdir(parents=True)
        shutil.copy(resources / f"{name}.flac", tmp_path / "numbered" / label)
        shutil.copy(resources / "misc_burp.flac", tmp_path / "numbered" / label)
    return tmp_path / "numbered"


def test_labels_of_a_folder_are_matched_or_proposed(ced: Run, numbered: Path, tmp_path: Path) -> None:
    shown = ced(numbered, code=1)
    assert "'3 - Hand drums' (did you mean " in last_line(shown.stderr) and shown.stdout == ""
    proposed = [line for line in shown.stderr.splitlines() if "Drum" in line and line.endswith(",3 - Hand drums")]
    assert proposed
    skipped = ced(numbered, "--skip-unknown")
    assert skipped.stdout.startswith("4 clips, single-label; 2 of 2 classes present")
    assert "note: 1 label unknown to the model with 2 clips left out: '3 - Hand drums'" in skipped.stderr
    (tmp_path / "map.csv").write_text("Drum,3 - Hand drums\nTabla,3 - Hand drums\n")
    mapped = ced(numbered, "--label-map", tmp_path / "map.csv", "--per-class", tmp_path / "classes.csv")
    assert mapped.stdout.startswith("6 clips, single-label; 3 of 3 classes present")
    assert "note: 2 labels matched without numbers, such as '1 - Crow' with 'Crow'" in mapped.stderr
    limits = read_thresholds(tmp_path / "classes.csv")
    assert set(limits) == {"Crow", "Bell", "3 - Hand drums"}
    (tmp_path / "wrong.csv").write_text("3 - Hand drums,Drum\n")
    assert "wrong.csv, line 1: '3 - Hand drums': expected a class of the model; did you mean" in last_line(
        ced(numbered, "--label-map", tmp_path / "wrong.csv", code=2).stderr
    )


def test_confusions_are_printed_and_written(ced: Run, numbered: Path, table: Path, tmp_path: Path) -> None:
    matrix, picture = tmp_path / "confusion.csv", tmp_path / "confusion.png"
    shown = ced(numbered, "--skip-unknown", "--confusion", matrix, "--confusion", picture)
    rows = list(csv.reader(matrix.open(encoding="utf-8")))
    assert rows[0] == ["label", "Crow", "Bell"] and [row[0] for row in rows[1:]] == ["Crow", "Bell"]
    counts = np.array([row[1:] for row in rows[1:]], int)
    assert counts.sum(axis=1).tolist() == [2, 2] and picture.read_bytes().startswith(b"\x89PNG")
    lines = shown.stdout.splitlines()
    pairs = [line.split(maxsplit=2) for line in lines[lines.index(CONFUSED_HEAD) + 1 :]]
    errors = {f"{a} → {b}": counts[i, 1 - i] for i, (a, b) in enumerate((("Crow", "Bell"), ("Bell", "Crow")))}
    assert {names: int(number) for number, _, names in pairs} == {name: n for name, n in errors.items() if n}
    assert "some have several or none" in last_line(ced(table, "--confusion", tmp_path / "x.csv", code=2).stderr)
    assert "expected a name that ends in .csv or .png" in last_line(ced(table, "--confusion", "x.svg", code=2).stderr)
    twice = ("--confusion", tmp_path / "x.csv", "--per-class", tmp_path / "x.csv")
    assert "expected another name; it is given twice" in last_line(ced(numbered, *twice, code=2).stderr)


# Splits


def test_the_test_split_is_evaluated_by_default(ced: Run, folder: Path) -> None:
    shown = ced(folder)
    assert "split: test (of train, validation, test)\n" in shown.stderr
    assert shown.stdout.startswith("2 clips, single-label; 2 of 2 classes present\n")
    assert json.loads(ced(folder, "--json").stdout)["split"] == "test"
    assert ced(folder, "--split", "all").stdout.startswith("6 clips")
    assert "split:" not in ced(folder, "--split", "train").stderr
    shutil.rmtree(folder / "test")
    assert "split: validation (of train, validation)\n" in ced(folder).stderr
    assert "no split 'test'; expected 'train', 'validation'" in last_line(ced(folder, "--split", "test", code=1).stderr)


def test_the_split_must_be_given_if_there_is_no_test_split(ced: Run, table: Path, resources: Path) -> None:
    rows = [f"{resources}/misc_crow.flac,Crow,fold1\n", f"{resources}/perc_bell.flac,Bell,fold2\n"]
    table.write_text("path,label,split\n" + "".join(rows))
    assert "missing --split: choose fold1, fold2 or all" in last_line(ced(table, code=2).stderr)
    assert ced(table, "--split", "all").stdout.startswith("2 clips, single-label")


def test_options_of_tables(ced: Run, resources: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('where,what\nmisc_crow.flac,"Crow|Bird"\nperc_bell.flac,bell\n')
    options = ("--audio-root", resources, "--path-column", "where", "--label-column", "what", "--separator", "|")
    assert ced(path, *options).stdout.startswith("2 clips, multi-label; 3 of 3 classes present")


# Errors


def test_clips_that_fail_are_named_and_the_exit_code_is_1(ced: Run, table: Path) -> None:
    (table.parent / "bad.wav").write_text("not audio")
    with table.open("a") as file:
        file.write("bad.wav,Crow\nmissing.wav,Bell\n")
    shown = ced(table, code=1)
    assert shown.stdout.startswith("4 clips (2 more failed), multi-label")
    lines = shown.stderr.splitlines()
    assert f"{table.parent}/missing.wav: there is no such file" in lines
    assert sum("bad.wav: " in line and "can read it" in line for line in lines) == 1
    assert lines[-1].endswith("1 failed")
    report = json.loads(ced(table, "--json", code=1).stdout)
    assert [Path(item["file"]).name for item in report["failed"]] == ["missing.wav", "bad.wav"]
    assert all(item["error"] for item in report["failed"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels\na.wav,Crwo\n", r"'Crwo' \(did you mean 'Crow'\?\) is not among the 527 classes"),
        ("a,b\n1,2\n", "no column of paths"),
        ("path,labels\nnix.wav,Crow\n", "there is no such file; give the folder of the paths with --audio-root"),
        ("", "cannot be read as csv"),
    ],
)
def test_unusable_labels_fail_in_one_line(ced: Run, tmp_path: Path, clip: Path, text: str, message: str) -> None:
    shutil.copy(clip, tmp_path / "a.wav")
    (tmp_path / "x.csv").write_text(text)
    shown = ced(tmp_path / "x.csv", code=1)
    assert re.search(message, last_line(shown.stderr)) and shown.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nix.csv"], "nix.csv: there is no such file or folder"),
        (["hf://datasets/x"], "local files only"),
        (["DATA", "--model", "/no/such/folder"], "there is no such folder"),
        (["DATA", "--per-class", "x.txt"], "--per-class x.txt: expected a name that ends in .csv"),
        (["DATA", "--per-class", "nix/x.csv"], "there is no folder 'nix'"),
        (["DATA", "--predictions", "x.csv"], "expected a name that ends in .npz"),
        (["DATA", "--per-class", "DATA", "--overwrite"], "this file has the labels"),
        (["DATA", "--batch-size", "0"], "--batch-size 0: expected a whole number from 1"),
        (["DATA", "--channel", "left"], "--channel left: expected mix, loudest or the number"),
        ([], "missing DATA or --dataset"),
    ],
)
def test_wrong_usage_is_found_before_the_work(table: Path, ced: Run, arguments: list[str], message: str) -> None:
    shown = ced(*(str(table) if argument == "DATA" else argument for argument in arguments), code=2, model=None)
    assert message in shown.stderr and shown.stdout == ""
    assert table.read_text().startswith("path,labels")


def test_help_is_complete(ced: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = ced("--help", model=None).stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80 and "Typer" not in shown and "Optional" not in shown
    for option in ("--split", "--per-class", "--predictions", "--audio-root", "--json", "--device", "--threads"):
        assert any(line.strip().startswith(option) for line in lines), option


def test_without_the_extra_the_error_has_the_install_command(
    ced: Run, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("datasets", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)
    line = last_line(ced(table, code=1).stderr)
    assert line == "ced: evaluating requires datasets and scikit-learn: pip install datasets scikit-learn"


def test_a_file_that_cannot_be_written_keeps_its_content(
    ced: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "classes.csv"
    path.write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr("csv.DictWriter.writerow", fail)
        result = ced(table, "--per-class", path, "--overwrite", code=1)
        assert last_line(result.stderr) == f"ced: '{path}': No space left on device"
        assert "mAP" in result.stdout  # the metrics are printed even if the file cannot be written
    assert path.read_text() == "before" and sorted(tmp_path.iterdir()) == [path, table]
    assert f"--per-class {path}: expected a new file; this one exists: use --overwrite" in last_line(
        ced(table, "--per-class", path, code=2).stderr
    )
    ced(table, "--per-class", path, "--overwrite")
    assert path.read_text().startswith("label,mid,") and sorted(tmp_path.iterdir()) == [path, table]


def test_a_file_that_appears_during_the_work_is_not_changed_and_the_result_is_kept(
    ced: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "classes.csv"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_text("mine"))
    result = ced(table, "--per-class", path, code=1)
    (kept,) = tmp_path.glob("classes-*.csv")
    assert path.read_text() == "mine" and kept.read_text().startswith("label,mid,")
    assert last_line(result.stderr) == (
        f"ced: '{path}': something else was written there in the meantime and is left as it is; the result is in {kept}"
    )
    assert "mAP" in result.stdout


def test_names_of_classes_and_files_cannot_write_to_the_terminal(resources: Path) -> None:
    labels = ["\x1b[31mDog\x1b[0m", "two\nlines", "\u202egod", "[red]Cat[/red]"]
    targets = np.eye(4, dtype=np.float32)
    found = classification_metrics(targets, targets, labels=labels)
    clips = LabelledClips(paths=[], labels=labels, targets=targets, problem_type=found.problem_type)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        put(*table_lines(Evaluation(found, clips, targets, [], [])))
    shown = said.getvalue()
    assert r"\x1b[31mDog\x1b[0m" in shown and r"two\nlines" in shown and r"\u202egod" in shown
    assert "[red]Cat[/red]" in shown and "\x1b" not in shown and "\u202e" not in shown


# In a terminal


def test_a_run_in_a_terminal(table: Path, random_model: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    output = tmp_path / "out.txt"
    process = start(["evaluate", table, "--model", random_model], stdout=output, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 2**16)
        except OSError:  # EIO if the other end is closed
            break
        if not part:
            break
        shown += part
    process.join()
    os.close(master)
    assert process.exitcode == 0
    assert f"model: {random_model}, onnx float32 on cpu".encode() in shown and b"4 of 4 inputs" in shown
    expected = evaluate(AudioTagger.from_pretrained(random_model), read_labelled(table)).metrics
    assert f"mAP      {expected.mean_average_precision:6.3f}" in output.read_text(encoding="utf-8")
