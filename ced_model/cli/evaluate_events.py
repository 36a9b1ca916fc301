# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced evaluate --events`: events compared with strong labels."""

import csv
import io
import json
import math
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..input_list import escape_name, existing
from ..messages import OptionError, printable
from ..output import check_new_file, new_file
from . import options
from .errors import FAILED, CliError
from .finding import choosing, parse_limits
from .model import load_tagger
from .options import option
from .progress import RunProgress
from .terminal import one_line, put, put_json, say

if TYPE_CHECKING:
    from ..event_evaluation import EventEvaluation
    from ..event_scores import Figures, ScoreTable

STRONG = "Strong labels (with --events)"
Events = Annotated[
    bool, option(STRONG, "--events", help="Compare events with strong labels: filename, onset, offset, event_label.")
]
Results = Annotated[
    str | None,
    option(STRONG, metavar="FILE", help="Compare the events in this file, without model and audio."),
]
TCollar = Annotated[
    float | None,
    option(STRONG, metavar="SECONDS", help="Tolerance of onsets and offsets; by default 0.2."),
]
PercentageOfLength = Annotated[
    float | None,
    option(STRONG, metavar="SHARE", help="Tolerance of offsets as a share of the event's length; by default 0.5."),
]
EvaluateOffset = Annotated[
    bool | None,
    option(STRONG, "--evaluate-offset/--no-evaluate-offset", help="Whether offsets must match; by default yes."),
]
TimeResolution = Annotated[
    float | None, option(STRONG, metavar="SECONDS", help="Length of the segments; by default 1.")
]
EmptyOutput = Annotated[
    str | None,
    option(
        STRONG,
        metavar="zero_score",
        help="zero_score: the F1 of a class without detected events is 0; by default it is undefined.",
    ),
]
Psds = Annotated[bool, option(STRONG, "--psds", help="Also compute the PSDS, over all thresholds.")]

CLASS_COLUMNS = ("label", "references", "predictions")
KINDS = {"event_based": "event", "segment_based": "segment"}
FIGURES = ("f_measure", "precision", "recall")
FINDING = ("off_threshold", "smooth_s", "smoothing", "min_duration_s", "merge_gap_s", "max_duration_s")
SCORING = (
    "t_collar",
    "percentage_of_length",
    "evaluate_offset",
    "time_resolution",
    "empty_system_output_handling",
)
OF_MODELS = (
    *FINDING,
    "model",
    "threshold",
    "threshold_file",
    "label_map",
    "window_s",
    "hop_s",
    "channel",
    "psds",
    "audio_root",
)
OF_CLIPS = ("dataset", "config", "audio_column", "split", "path_column", "label_column", "predictions")
OWN = (*SCORING, *FINDING, "results", "threshold", "threshold_file", "labels", "window_s", "hop_s", "psds")


def refuse_without_events(given: dict[str, Any]) -> None:
    """Refuses options that require `--events`."""
    options.refuse("needs --events", **{_flag(name): given[name] or None for name in OWN})


def _flag(name: str) -> str:
    return {"threshold_file": "thresholds"}.get(name, name)


def evaluate_events(given: dict[str, Any]) -> None:
    """Runs `ced evaluate --events` with the parameters of `ced evaluate`."""
    options.refuse("has no effect with --events", **{name: given[name] for name in OF_CLIPS})
    data, results, per_class, overwrite = (given[name] for name in ("data", "results", "per_class", "overwrite"))
    if not data:
        raise CliError("missing DATA: a table of strong labels")
    data = existing(data)
    if os.path.isdir(data):
        raise CliError(
            f"{printable(data)} is a folder: give the table of strong labels, and its folder of audio with --audio-root"
        )
    if per_class is not None:
        check_new_file("per_class", per_class, ".csv", overwrite)
        for read in filter(None, (data, results)):
            if os.path.exists(per_class) and os.path.exists(read) and os.path.samefile(per_class, read):
                raise OptionError("per_class", per_class, "another name; this file has the labels or events")
    scoring = options.given(**{name: given[name] for name in SCORING})
    made: dict[str, Any] = {"data": escape_name(data)}
    if results is not None:
        refused = {_flag(name): given[name] or None for name in OF_MODELS}
        options.refuse("has no effect with --results", **refused)
        from ..event_evaluation import compare_events

        evaluation = compare_events(results, data, labels=given["labels"] or None, **scoring)
        made["results"] = escape_name(results)
    else:
        evaluation, model = _with_model(data, given, scoring)
        made |= model
    for note in evaluation.notes:
        say(f"note: {note}")
    try:
        if per_class is not None:
            _write_per_class(per_class, overwrite, evaluation)
    finally:
        if given["as_json"]:
            put_json(json.dumps(made | scoring | report(evaluation), indent=1, allow_nan=False))
        else:
            put(*event_lines(evaluation))
    if evaluation.failed:
        raise typer.Exit(FAILED)


def _with_model(data: str, given: dict[str, Any], scoring: dict[str, Any]) -> tuple["EventEvaluation", dict[str, Any]]:
    if given["psds"]:
        from ..psds import check_psds

        check_psds()
    computing = ("device", "num_threads", "batch_size", "engine", "compute_type")
    chosen = choosing(given["labels"], None, given["label_map"])
    limits = parse_limits(given["threshold"], given["threshold_file"], ["those of the labels"], True)
    finding = options.given(**{name: given[name] for name in FINDING})
    tagger = load_tagger(given["model"], **{name: given[name] for name in computing})
    from ..event_evaluation import evaluate_events
    from ..records import check_options

    check_options(tagger, limits | finding | chosen, "events")

    progress = RunProgress(2)

    def count(path: str, reason: str | None) -> None:
        progress.count(failed=reason is not None)
        if reason is not None:
            with progress.hidden():
                say(f"{printable(path)}: {one_line(reason)}")

    with progress:
        evaluation = evaluate_events(
            tagger,
            data,
            audio_root=given["audio_root"],
            window_s=given["window_s"],
            hop_s=given["hop_s"],
            channel=options.parse_channel(given["channel"]),
            finding=finding,
            with_psds=given["psds"],
            on_audio=progress.add_audio,
            on_recording=count,
            on_start=lambda total: setattr(progress, "total", total),
            **chosen,
            **limits,
            **scoring,
        )
    say(progress.summary())
    return evaluation, {"model": tagger.name, "engine": tagger.engine, "compute_type": tagger.compute_type}


# Output


def event_lines(evaluation: "EventEvaluation") -> list[str]:
    """The figures in total and by class, in 80 columns."""
    scores = evaluation.scores
    counts = scores.event_based.counts
    events = sum(each.references for each in counts.values())
    failed = f" ({len(evaluation.failed)} more failed)" if evaluation.failed else ""
    lines = [f"{evaluation.num_recordings} recordings{failed}, {events} events of {len(counts)} classes", ""]
    lines.append(f"{'':21} {'F1':>6} {'precision':>9} {'recall':>6}")
    for kind, name in KINDS.items():
        table: ScoreTable = getattr(scores, kind)
        for how, figures in (("macro", table.macro), ("micro", table.micro)):
            lines.append(f"{name + '-based':13} {how:7} {_row(figures)}")
    lines += [f"{name:21} {value:6.3f}" for name, value in (evaluation.psds or {}).items()]
    lines += ["", "labelled  found |  events: F1 precision recall | segments: F1  class"]
    for label in sorted(counts, key=lambda label: -counts[label].references):
        own = _row(scores.event_based.per_class[label])
        segments = _shown(scores.segment_based.per_class[label].f_measure)
        numbers = f"{counts[label].references:8} {counts[label].predictions:6}"
        lines.append(f"{numbers} |      {own} |       {segments:>6}  {printable(label)}")
    return lines


def _row(figures: "Figures") -> str:
    return f"{_shown(figures.f_measure):>6} {_shown(figures.precision):>9} {_shown(figures.recall):>6}"


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def report(evaluation: "EventEvaluation") -> dict[str, Any]:
    """The content of `--json`; undefined figures are null."""
    found: dict[str, Any] = {"num_recordings": evaluation.num_recordings}
    for kind in KINDS:
        table = getattr(evaluation.scores, kind)
        found[kind] = {"macro": _named(table.macro), "micro": _named(table.micro)}
    return {
        **found,
        **(evaluation.psds or {}),
        "notes": evaluation.notes,
        "failed": [{"file": escape_name(path), "error": reason} for path, reason in evaluation.failed],
        "per_class": _class_rows(evaluation),
    }


def _named(figures: "Figures", prefix: str = "") -> dict[str, float | None]:
    return {
        f"{prefix}{name}": None if math.isnan(value) else value for name, value in zip(FIGURES, figures, strict=True)
    }


def _class_rows(evaluation: "EventEvaluation") -> list[dict[str, Any]]:
    rows = []
    for label, counts in evaluation.scores.event_based.counts.items():
        row: dict[str, Any] = dict(zip(CLASS_COLUMNS, (label, *counts[:2]), strict=True))
        for kind, prefix in KINDS.items():
            row |= _named(getattr(evaluation.scores, kind).per_class[label], f"{prefix}_")
        rows.append(row)
    return rows


def _write_per_class(path: str, overwrite: bool, evaluation: "EventEvaluation") -> None:
    rows = _class_rows(evaluation)
    with new_file(path, overwrite) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()
