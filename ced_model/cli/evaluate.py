# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced evaluate`: the accuracy of a model on labelled clips."""

import csv
import io
import json
import math
import os
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ..audioset import AUDIOSET_CLASSES
from ..messages import OptionError, printable
from ..output import check_new_file, new_file
from ..packages import require
from . import evaluate_events, options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .finding import choosing
from .model import load_tagger, quieten
from .options import CLASSES, INPUT, OUTPUT, option
from .plot import save_figure
from .progress import RunProgress
from .terminal import one_line, put, put_json, say

if TYPE_CHECKING:
    from ..dataset_rows import DatasetRows
    from ..evaluation import ClassMetrics, Evaluation
    from ..labelled import LabelledClips
    from ..tagger import AudioTagger

PREFERRED_SPLITS = ("test", "eval", "evaluation", "validation", "valid", "val", "dev")
MAX_CLASSES = 20  # up to which all are shown
BEST_AND_WORST = 5  # shown of more classes

CLASS_COLUMNS = ("label", "mid", "positives", "AP", "AUC", "d_prime", "best_F1", "best_threshold")
CLASS_HEAD = "positives     AP    AUC     d'  class"
CONFUSED_HEAD = "    clips  share  label → best-scored class instead"
INTERVAL_HEAD = f"{'':17}95% interval"
WIDTH = 80
FIGURES = {
    "mAP": "mean average precision of the classes present",
    "mAUC": "mean area under the ROC curve",
    "d_prime": "of mAUC",
    "top_1": "share of clips whose best-scored class is right",
    "ECE": "expected calibration error; 0 is best",
    "Brier": "mean squared error of the scores; 0 is best",
}


@one_line_errors
def evaluate(
    data: Annotated[str | None, typer.Argument(metavar="DATA", hidden=True)] = None,
    dataset: options.Dataset = None,
    config: options.Config = None,
    audio_column: options.AudioColumn = None,
    model: options.Model = None,
    split: Annotated[
        str | None,
        option(
            INPUT, metavar="NAME", help="Split to evaluate, or all; by default the test split if there are several."
        ),
    ] = None,
    audio_root: options.AudioRoot = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    separator: options.Separator = ";",
    label_map: Annotated[
        str | None,
        option(
            CLASSES,
            "--label-map",
            metavar="FILE",
            help="CSV as for ced tag: a class of the model and its label in DATA. A class may have several labels and"
            " a label several classes.",
        ),
    ] = None,
    skip_unknown: Annotated[
        bool, option(CLASSES, "--skip-unknown", help="Leave out labels that are not classes of the model.")
    ] = False,
    per_class: Annotated[
        str | None, option(OUTPUT, metavar="FILE.csv", help="Write the figures of each class to this file.")
    ] = None,
    confusion: Annotated[
        list[str] | None,
        option(
            OUTPUT,
            metavar="FILE",
            help="Write the confusion matrix to a .csv or .png file; for clips with one class each.",
        ),
    ] = None,
    predictions: Annotated[
        str | None, option(OUTPUT, metavar="FILE.npz", help="Write files, labels, targets and scores as NumPy arrays.")
    ] = None,
    overwrite: Annotated[bool, option(OUTPUT, "--overwrite", help="Replace existing output files.")] = False,
    events: evaluate_events.Events = False,
    results: evaluate_events.Results = None,
    t_collar: evaluate_events.TCollar = None,
    percentage_of_length: evaluate_events.PercentageOfLength = None,
    evaluate_offset: evaluate_events.EvaluateOffset = None,
    time_resolution: evaluate_events.TimeResolution = None,
    empty_system_output_handling: evaluate_events.EmptyOutput = None,
    psds: evaluate_events.Psds = False,
    threshold: options.Threshold = None,
    threshold_file: options.ThresholdFile = None,
    labels: options.Labels = None,
    off_threshold: options.OffThreshold = None,
    smooth_s: options.Smooth = None,
    smoothing: options.Smoothing = None,
    min_duration_s: options.MinDuration = None,
    merge_gap_s: options.MergeGap = None,
    max_duration_s: options.MaxDuration = None,
    window_s: options.Window = None,
    hop_s: options.Hop = None,
    channel: options.Channel = None,
    as_json: options.AsJson = False,
    device: options.Device = None,
    num_threads: options.Threads = None,
    batch_size: options.BatchSize = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
) -> None:
    """Measure a model's accuracy on labelled recordings.

    DATA is a folder with one folder of clips per class, a folder with a metadata.csv, or a table (CSV, TSV, JSON lines,
    Parquet). A table has a column of paths, and either a column of classes, separated by ;, or a column for each class
    with values from 0 to 1. Labels are names of the model's classes, or machine ids of AudioSet. --dataset instead of
    DATA evaluates the rows of a data set; those on the Hub are streamed.

    With --events, DATA is a table of strong labels (filename, onset, offset, event_label). The events of the model, or
    those in --results, are compared with these labels.

    Exit code: 0, 1 if clips were missing or could not be read (each is named on stderr), 2 for wrong usage.
    """
    if events:
        return evaluate_events.evaluate_events(locals())
    evaluate_events.refuse_without_events(locals())
    name = options.choose_data(
        data, dataset, config=config, audio_column=audio_column, audio_root=audio_root, path_column=path_column
    )
    if data is not None:
        from ..input_list import existing

        existing(data)
    pictures = [path for path in confusion or () if path.lower().endswith(".png")]
    outputs = [("per_class", per_class, ".csv"), ("predictions", predictions, ".npz")]
    for path in confusion or ():
        if not path.lower().endswith((".csv", ".png")):
            raise OptionError("confusion", path, "a name that ends in .csv or .png")
        outputs.append(("confusion", path, path[-4:].lower()))
    places: set[str] = set()
    for name_of_option, file, extension in outputs:
        if file is not None:
            check_new_file(name_of_option, file, extension, overwrite)
            given = os.path.expanduser(name)
            if os.path.exists(file) and os.path.exists(given) and os.path.samefile(file, given):
                raise OptionError(name_of_option, file, "another name; this file has the labels")
            if os.path.realpath(file) in places:
                raise OptionError(name_of_option, file, "another name; it is given twice")
            places.add(os.path.realpath(file))
    require(("datasets", "sklearn"), "evaluating")
    matching = options.given(skip_unknown=skip_unknown) | choosing(None, None, label_map)
    if pictures:
        require(("matplotlib",), "drawing")
    rows = None
    if dataset is not None:
        quieten()
        from ..dataset_rows import DatasetRows, find_dataset, local_files

        files = find_dataset(dataset, config, audio_column)
        split = files.choose(_choose_split(list(files.splits), split))
        if files.is_table:
            rows = DatasetRows(files, split, audio_column)
        data = local_files(files, files.names(split)).folder
    else:
        from ..labelled import find_splits

        split = _choose_split(find_splits(str(data)), split)
    tagger = load_tagger(
        model,
        device=device,
        num_threads=num_threads,
        batch_size=batch_size,
        engine=engine,
        compute_type=compute_type,
    )
    if rows is not None:
        from ..dataset_clips import labelled_rows

        clips = labelled_rows(rows, tagger.labels, label_column=label_column, separator=separator)
    else:
        from ..labelled import read_labelled

        clips = read_labelled(
            str(data),
            split=split,
            audio_root=audio_root,
            path_column=path_column,
            label_column=label_column,
            separator=separator,
            model_classes=tagger.labels,
        )
    _print_notes(clips.notes)
    for path, reason in clips.skipped:
        _print_failure(path, reason)
    from ..labelled import SINGLE_LABEL

    if confusion and clips.problem_type != SINGLE_LABEL:
        raise OptionError("confusion", confusion[0], "clips with one class each; some have several or none")
    evaluation = _evaluate(tagger, clips, rows, channel=options.parse_channel(channel), **matching)
    _print_notes(evaluation.notes[len(clips.notes) :])
    made = {"data": name, "split": split, "model": tagger.name}
    made |= {"engine": tagger.engine, "compute_type": tagger.compute_type}
    with ExitStack() as steps:  # run in reverse order; a failed one does not prevent the others
        steps.callback(_print_report, made, evaluation, as_json)
        steps.callback(_write, predictions, overwrite, evaluation, _write_predictions)
        steps.callback(_write, per_class, overwrite, evaluation, _write_per_class)
        for path in confusion or ():
            write = _draw_confusion if path in pictures else _write_confusion
            steps.callback(_write, path, overwrite, evaluation, write)
    if evaluation.failed:
        raise typer.Exit(FAILED)


def _choose_split(names: list[str], split: str | None) -> str | None:
    """The split to evaluate: the test split if there are several. The choice is printed."""
    if split is not None or len(names) < 2:
        return split
    chosen = next((name for name in PREFERRED_SPLITS if name in names), None)
    if chosen is None:
        raise CliError(f"missing --split: choose {', '.join(names)} or all")
    say(f"split: {chosen} (of {', '.join(names)})")
    return chosen


def _evaluate(tagger: "AudioTagger", clips: "LabelledClips", rows: "DatasetRows | None", **how: Any) -> "Evaluation":
    from ..dataset_clips import read_rows
    from ..evaluation import evaluate
    from ..labelled import UnknownLabelsError

    progress = RunProgress(len(clips))

    def count(path: str, reason: str | None) -> None:
        progress.count(failed=reason is not None)
        if reason is not None:
            with progress.hidden():
                _print_failure(path, reason)

    try:
        with progress:
            watching: dict[str, Any] = {"on_audio": progress.add_audio, "on_clip": count}
            read = None if rows is None else partial(read_rows, rows)
            evaluation = evaluate(tagger, clips, read=read, **watching, **how)
    except UnknownLabelsError as error:
        say("you can start a file for --label-map with these lines; correct the class of the model in each:")
        say(*error.proposed_map())
        raise
    say(progress.summary())
    return evaluation


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        say(f"note: {note}")


def _print_failure(path: str, reason: str) -> None:
    say(f"{path}: {one_line(reason)}")


# Output


def table_lines(evaluation: "Evaluation") -> list[str]:
    """The figures in total and by class, in 80 columns."""
    from ..labelled import SINGLE_LABEL

    metrics, intervals = evaluation.metrics, evaluation.intervals
    kind = "single-label" if metrics.problem_type == SINGLE_LABEL else "multi-label"
    failed = f" ({len(evaluation.failed)} more failed)" if evaluation.failed else ""
    classes = f"{metrics.num_classes_present} of {metrics.num_classes} classes present"
    lines = [f"{metrics.num_clips} clips{failed}, {kind}; {classes}", INTERVAL_HEAD]
    for name, value in metrics.summary().items():
        between = "–".join(map(_shown, intervals[name])) if math.isfinite(intervals[name][0]) else "–"
        lines.append(f"{name:8} {_shown(value):>6}  {between:11}  {FIGURES[name]}")
    if evaluation.calibration_note is not None:
        lines += textwrap.wrap(f"{evaluation.calibration_note} ced evaluate --per-class writes them.", WIDTH)
    lines += ["", CLASS_HEAD]
    present = sorted((item for item in metrics.per_class if item.positives), key=lambda item: -item.average_precision)
    if len(present) <= MAX_CLASSES:
        lines += map(_class_line, present)
    else:
        best, worst = present[:BEST_AND_WORST], present[-BEST_AND_WORST:]
        lines += [*map(_class_line, best), f"{'…':>9}", *map(_class_line, worst)]
    return lines + _confused_lines(evaluation)


def _confused_lines(evaluation: "Evaluation") -> list[str]:
    """The most frequent confusions of two classes, for single-label data."""
    from ..confusion import most_confused
    from ..drawing import shortened

    if evaluation.confusion is None:
        return []
    lines = ["", CONFUSED_HEAD]
    for label, taken_for, clips, share in most_confused(evaluation.confusion, evaluation.clips.labels):
        names = " → ".join(shortened(printable(name), (WIDTH - 21) // 2) for name in (label, taken_for))
        lines.append(f"{clips:9} {share:6.0%}  {names}")
    return lines if len(lines) > 2 else []


def _class_line(item: "ClassMetrics") -> str:
    figures = " ".join(f"{_shown(value):>6}" for value in (item.average_precision, item.auc, item.d_prime))
    return f"{item.positives:9} {figures}  {item.label}"


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else "∞" if value == math.inf else f"{value:.3f}"


def _report(evaluation: "Evaluation") -> dict[str, Any]:
    """The content of `--json`; undefined and infinite figures are null."""
    from ..input_list import escape_name

    metrics = evaluation.metrics
    return {
        "problem_type": metrics.problem_type,
        "num_clips": metrics.num_clips,
        "num_classes": metrics.num_classes,
        "num_classes_present": metrics.num_classes_present,
        **{name: _finite(value) for name, value in metrics.summary().items()},
        "intervals": {name: [*map(_finite, bounds)] for name, bounds in evaluation.intervals.items()},
        "calibration": evaluation.calibration_note,
        "notes": evaluation.notes,
        "failed": [{"file": escape_name(path), "error": reason} for path, reason in evaluation.failed],
        "per_class": [_class_row(item) for item in metrics.per_class],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _class_row(item: "ClassMetrics") -> dict[str, Any]:
    label, positives, *figures = item
    mid = next((mid for mid, name in AUDIOSET_CLASSES if name == label), "")
    return dict(zip(CLASS_COLUMNS, (label, mid, positives, *map(_finite, figures)), strict=True))


def _print_report(made: dict[str, Any], evaluation: "Evaluation", as_json: bool) -> None:
    if as_json:
        from ..input_list import escape_name

        report = made | {"data": escape_name(made["data"])} | _report(evaluation)
        put_json(json.dumps(report, indent=1, allow_nan=False))
    else:
        put(*table_lines(evaluation))


def _write(
    path: str | None, overwrite: bool, evaluation: "Evaluation", write: Callable[["Evaluation", BinaryIO], None]
) -> None:
    if path is not None:
        with new_file(path, overwrite) as file:
            write(evaluation, file)


def _write_per_class(evaluation: "Evaluation", file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.DictWriter(text, CLASS_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for item in evaluation.metrics.per_class:
        writer.writerow(_class_row(item))
    text.detach()


def _write_confusion(evaluation: "Evaluation", file: BinaryIO) -> None:
    from ..confusion import write_matrix

    assert evaluation.confusion is not None
    write_matrix(file, evaluation.confusion, evaluation.clips.labels)


def _draw_confusion(evaluation: "Evaluation", file: BinaryIO) -> None:
    from ..confusion import make_picture

    assert evaluation.confusion is not None
    save_figure(make_picture(evaluation.confusion, evaluation.clips.labels), file)


def _write_predictions(evaluation: "Evaluation", file: BinaryIO) -> None:
    import numpy as np

    from ..input_list import escape_name

    clips = evaluation.clips
    np.savez_compressed(
        file,
        files=np.array([escape_name(path) for path in clips.paths]),
        labels=np.array(clips.labels),
        targets=clips.targets,
        scores=evaluation.scores,
    )
