# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced evaluate`: how well a model tags labelled clips."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from ..audioset import AUDIOSET_CLASSES
from ..engines import choose_engine
from .errors import FAILED, CliError
from .inputs import escape_name
from .model import choose_model, load_tagger, parse_channel, shown_name
from .progress import RunProgress
from .terminal import one_line, put, put_json, say

if TYPE_CHECKING:
    from .. import AudioTagger
    from ..evaluation import ClassMetrics, Evaluation
    from ..labelled import LabelledClips

INSTALL_TRAIN = 'pip install "ced_model[train]"'
LIBRARIES = {"datasets": "datasets", "sklearn": "scikit-learn"}
PREFERRED_SPLITS = ("test", "eval", "evaluation", "validation", "valid", "val", "dev")
MOST_CLASSES = 20  # that are all shown
BEST_AND_WORST = 5  # of more classes

CLASS_COLUMNS = ("label", "mid", "positives", "AP", "AUC", "d_prime", "best_F1", "best_threshold")
CLASS_HEAD = "positives     AP    AUC     d'  class"
FIGURES = {
    "mAP": "mean average precision of the classes present",
    "mAUC": "mean area under the ROC curve",
    "d_prime": "of mAUC",
    "top_1": "share of clips whose best-scored class is right",
    "ECE": "expected calibration error; 0 is best",
    "Brier": "mean squared error of the scores; 0 is best",
}


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of `ced evaluate`, named as on the command line; None where they were not given."""

    model: str | None = None
    split: str | None = None
    audio_root: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    separator: str = ";"
    per_class: str | None = None
    predictions: str | None = None
    overwrite: bool = False
    channel: str | None = None
    as_json: bool = False
    device: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    engine: str | None = None
    compute_type: str | None = None


def evaluate_data(data: str, options: EvaluateOptions) -> None:
    """
    Evaluates a model on a folder or table of labelled clips and prints the figures.

    Raises:
        CliError: for wrong usage, and where it cannot go on.
        typer.Exit: at the end, if clips were skipped or failed.
    """
    model = _checked_usage(data, options)
    split = _choose_split(data, options.split)
    tagger = load_tagger(
        model,
        device=options.device,
        num_threads=options.threads,
        batch_size=options.batch_size,
        engine=options.engine,
        compute_type=options.compute_type,
    )
    clips = _read(data, split, options, tagger.labels)
    _print_notes(clips.notes)
    for path, reason in clips.skipped:
        _print_failure(path, reason)
    evaluation = _evaluate(tagger, clips, parse_channel(options.channel))
    _print_notes(evaluation.notes[len(clips.notes) :])
    _give(
        lambda: _write(options.per_class, options.overwrite, evaluation, _write_per_class),
        lambda: _write(options.predictions, options.overwrite, evaluation, _write_predictions),
        lambda: _print_report(data, split, model, evaluation, options.as_json),
    )
    if evaluation.failed:
        raise typer.Exit(FAILED)


def _checked_usage(data: str, options: EvaluateOptions) -> str:
    """The model to load. Raises `CliError` for what can be seen to be wrong without it."""
    model = choose_model(options.model)
    choose_engine(options.engine or "auto", options.compute_type, options.device)
    parse_channel(options.channel)
    if "://" in data:
        raise CliError(f"{data}: labelled clips are read from local files only; download them first")
    if not os.path.exists(os.path.expanduser(data)):
        raise CliError(f"{data!r}: there is no such file or folder")
    outputs = [("--per-class", options.per_class, ".csv"), ("--predictions", options.predictions, ".npz")]
    for flag, path, extension in outputs:
        if path is None:
            continue
        if not path.lower().endswith(extension):
            raise CliError(f"{flag} {path}: give a name that ends in {extension}")
        if os.path.isdir(path):
            raise CliError(f"{flag} {path}: a folder; give a file name")
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise CliError(f"{flag} {path}: there is no folder {os.path.dirname(path)!r}")
        if os.path.exists(path) and os.path.samefile(path, os.path.expanduser(data)):
            raise CliError(f"{flag} {path}: these are the labels, they would be lost; give another name")
        if os.path.exists(path) and not options.overwrite:
            raise CliError(f"{flag} {path} exists: add --overwrite, or give another name")
    missing = [package for module, package in LIBRARIES.items() if find_spec(module) is None]
    if missing:
        raise CliError(f"evaluating needs {' and '.join(missing)}: {INSTALL_TRAIN}", FAILED)
    return model


def _choose_split(data: str, split: str | None) -> str | None:
    """The split to evaluate: that for testing if there are several, and stderr tells which."""
    from ..labelled import find_splits

    with _one_line_failures():
        names = find_splits(data)
    if split is not None or len(names) < 2:
        return split
    chosen = next((name for name in PREFERRED_SPLITS if name in names), None)
    if chosen is None:
        raise CliError(f"choose with --split: {', '.join(names)}, or all")
    say(f"split: {chosen} (of {', '.join(names)})")
    return chosen


def _read(data: str, split: str | None, options: EvaluateOptions, classes: list[str]) -> "LabelledClips":
    from ..labelled import read_labelled

    with _one_line_failures():
        return read_labelled(
            data,
            split=split,
            audio_root=options.audio_root,
            path_column=options.path_column,
            label_column=options.label_column,
            separator=options.separator,
            model_classes=classes,
        )


def _evaluate(tagger: "AudioTagger", clips: "LabelledClips", channel: str | int) -> "Evaluation":
    from ..evaluation import evaluate

    progress = RunProgress(len(clips))

    def count(path: str, reason: str | None) -> None:
        progress.count(failed=reason is not None)
        if reason is not None:
            with progress.hidden():
                _print_failure(path, reason)

    with _one_line_failures(), progress:
        evaluation = evaluate(tagger, clips, channel=channel, on_audio=progress.add_audio, on_clip=count)
    say(progress.summary())
    return evaluation


@contextmanager
def _one_line_failures() -> Iterator[None]:
    """What the library finds wrong fails the command, with options named as on the command line."""
    try:
        yield
    except ValueError as error:
        message = re.sub(r"`(\w+)`", lambda match: "--" + match[1].replace("_", "-"), str(error))
        raise CliError(message.rstrip("."), FAILED) from error


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        say(f"note: {note}")


def _print_failure(path: str, reason: str) -> None:
    say(f"{path}: {one_line(reason)}")


# Output


def table_lines(evaluation: "Evaluation") -> list[str]:
    """Lines for the eye, 80 columns wide: the figures, and the classes."""
    from ..labelled import SINGLE_LABEL

    metrics = evaluation.metrics
    kind = "single-label" if metrics.problem_type == SINGLE_LABEL else "multi-label"
    failed = f" ({len(evaluation.failed)} more failed)" if evaluation.failed else ""
    classes = f"{metrics.num_classes_present} of {metrics.num_classes} classes present"
    lines = [f"{metrics.num_clips} clips{failed}, {kind}; {classes}", ""]
    for name, value in metrics.summary().items():
        lines.append(f"{name:8} {_shown(value):>6}  {FIGURES[name]}")
    present = sorted((item for item in metrics.per_class if item.positives), key=lambda item: -item.average_precision)
    if len(present) <= MOST_CLASSES:
        return [*lines, "", CLASS_HEAD, *map(_class_line, present)]
    best, worst = present[:BEST_AND_WORST], present[-BEST_AND_WORST:]
    return [*lines, "", CLASS_HEAD, *map(_class_line, best), f"{'…':>9}", *map(_class_line, worst)]


def _class_line(item: "ClassMetrics") -> str:
    figures = [item.average_precision, item.auc, item.d_prime]
    return f"{item.positives:9} " + " ".join(f"{_shown(value):>6}" for value in figures) + f"  {item.label}"


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _report(evaluation: "Evaluation") -> dict[str, Any]:
    """What `--json` tells; null for what is not defined or not finite."""
    metrics = evaluation.metrics
    return {
        "problem_type": metrics.problem_type,
        "num_clips": metrics.num_clips,
        "num_classes": metrics.num_classes,
        "num_classes_present": metrics.num_classes_present,
        **{name: _finite(value) for name, value in metrics.summary().items()},
        "notes": evaluation.notes,
        "failed": [{"file": escape_name(path), "error": reason} for path, reason in evaluation.failed],
        "per_class": [_finite_row(item) for item in metrics.per_class],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _class_row(item: "ClassMetrics") -> dict[str, Any]:
    values = (item.positives, item.average_precision, item.auc, item.d_prime, item.best_f1, item.best_threshold)
    return dict(zip(CLASS_COLUMNS, (item.label, _mid_of(item.label), *values), strict=True))


def _finite_row(item: "ClassMetrics") -> dict[str, Any]:
    return {name: _finite(value) if isinstance(value, float) else value for name, value in _class_row(item).items()}


def _mid_of(label: str) -> str:
    """AudioSet's machine id of a class with this name, if it has one of this name."""
    return next((mid for mid, name in AUDIOSET_CLASSES if name == label), "")


def _give(*steps: Callable[[], None]) -> None:
    """Takes all steps, so that a full disk does not lose what can go elsewhere; raises the first error in the end."""
    errors: list[OSError | CliError] = []
    for step in steps:
        try:
            step()
        except (OSError, CliError) as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _print_report(data: str, split: str | None, model: str, evaluation: "Evaluation", as_json: bool) -> None:
    if as_json:
        report = {"data": escape_name(data), "split": split, "model": shown_name(model)} | _report(evaluation)
        put_json(json.dumps(report, indent=1, allow_nan=False))
    else:
        put(*table_lines(evaluation))


def _write(
    path: str | None, overwrite: bool, evaluation: "Evaluation", write: Callable[["Evaluation", BinaryIO], None]
) -> None:
    from ..output import new_file

    if path is not None:
        with new_file(path, overwrite) as file:
            write(evaluation, file)


def _write_per_class(evaluation: "Evaluation", file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.DictWriter(text, CLASS_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for item in evaluation.metrics.per_class:
        writer.writerow(_finite_row(item))
    text.detach()


def _write_predictions(evaluation: "Evaluation", file: BinaryIO) -> None:
    import numpy as np

    clips = evaluation.clips
    np.savez_compressed(
        file,
        files=np.array([escape_name(path) for path in clips.paths]),
        labels=np.array(clips.labels),
        targets=clips.targets,
        scores=evaluation.scores,
    )
