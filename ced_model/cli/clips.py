# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced clips`: recordings → audio files of the parts in which classes were detected."""

import math
import os
from typing import Annotated, Any

import typer

from ..messages import count
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .model import load_tagger
from .options import CLASSES, OUTPUT, option
from .progress import inputs_without_entry, progress_of
from .terminal import put, say, say_error

KIND = "clips"
THRESHOLD = 0.5
PADDING_S = 0.5


@one_line_errors
def clips(
    paths: Annotated[list[str] | None, typer.Argument(metavar="RECORDINGS…", hidden=True)] = None,
    list_file: options.ListFile = None,
    channel: options.Channel = None,
    model: options.Model = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
    device: options.Device = None,
    num_threads: options.Threads = None,
    batch_size: options.BatchSize = None,
    labels: options.Labels = None,
    threshold: Annotated[
        float | None, option(CLASSES, metavar="SCORE", help="Minimum score of a class; by default 0.5.")
    ] = None,
    window_s: options.Window = None,
    hop_s: options.Hop = None,
    min_duration_s: options.MinDuration = None,
    merge_gap_s: options.MergeGap = None,
    output: Annotated[
        str | None,
        option(
            OUTPUT,
            "--output",
            "-o",
            metavar="DIR",
            help="A new folder, or with --resume that of the interrupted run. Required.",
        ),
    ] = None,
    padding_s: Annotated[
        float, option(OUTPUT, "--padding", metavar="SECONDS", help="Audio before and after an event; by default 0.5.")
    ] = PADDING_S,
    max_per_class: Annotated[int | None, option(OUTPUT, metavar="N", min=1, help="Maximum clips per class.")] = None,
    choose: Annotated[
        str,
        option(
            OUTPUT,
            metavar="best|random|spread",
            help="Clips to keep with --max-per-class: best scores (default), random, or spread evenly over all scores.",
        ),
    ] = "best",
    seed: Annotated[int, option(OUTPUT, metavar="N", min=0, help="Random seed; by default 0.")] = 0,
    format: options.ClipFormat = "wav",
    resume: Annotated[bool, option(OUTPUT, "--resume", help="Continue an interrupted run.")] = False,
) -> None:
    """Save the parts of recordings in which classes are detected.

    RECORDINGS are files, folders and patterns, as for `ced tag`. The clips are written to DIR, in one folder per class,
    with the table clips.csv. Remove the wrong ones to use DIR with `ced learn` or `ced finetune`. Clips keep the
    sampling rate and the channels of their recording.

    Exit code: 0, 1 if inputs failed (each is named on stderr), 2 for wrong usage.
    """
    from ..clip_choice import check_choice, choose_clips, write_clips
    from ..clip_files import check_format
    from ..input_list import find_inputs, unescape_name
    from ..output import check_writable
    from ..records import check_options, make_records
    from ..unfinished import Unfinished

    if output is None:
        raise CliError("missing --output DIR: where to write the clips")
    check_format(format)
    check_choice(choose)
    if not 0 <= padding_s < math.inf:
        raise CliError(f"--padding {padding_s:g}: expected a number from 0")
    output = os.path.abspath(output)
    _check_folder(output, resume)
    table = os.path.join(output, "clips.csv")
    check_writable(table, output)
    inputs = find_inputs(paths or [], list_file)
    if any(not isinstance(item.source, str) for item in inputs):
        raise CliError("-: clips cannot be cut from standard input: save it as a file first")
    detecting = options.given(window_s=window_s, hop_s=hop_s, channel=options.parse_channel(channel))
    detecting |= {"thresholds": THRESHOLD if threshold is None else threshold, "labels": labels or None}
    detecting |= {"min_duration_s": min_duration_s or 0.0, "merge_gap_s": merge_gap_s or 0.0}
    choosing: dict[str, Any] = {"padding_s": padding_s, "choose": choose, "seed": seed, "format": format}
    computing: dict[str, Any] = {"engine": engine, "compute_type": compute_type, "device": device}
    tagger = load_tagger(model, **computing, num_threads=num_threads, batch_size=batch_size)
    check_options(tagger, detecting, "events")
    header: dict[str, Any] = {"ced": KIND, "model": tagger.name, "weights": tagger.fingerprint}
    header |= {**detecting, **choosing, "max_per_class": max_per_class}
    os.makedirs(output, exist_ok=True)
    with Unfinished(table, header, resume=resume, overwrite=None) as unfinished:
        waiting = inputs_without_entry(inputs, unfinished)
        progress = progress_of(waiting)
        found = make_records(tagger, waiting, detecting, kind="events", on_audio=progress.add_audio)
        progress.keep(found, unfinished)
        known = unfinished.entries(item.name for item in inputs if item.name in unfinished)
        chosen = choose_clips(known, most=max_per_class, **choosing)
        written = write_clips(chosen, output, unescape_name, format, say_error)
        unfinished.remove()
    classes = count(len({clip.label for clip in written}), "class", "es")
    put(f"wrote {output}: {count(len(written), 'clip')} of {classes}, and clips.csv")
    say(progress.summary())
    if progress.failed or len(written) < len(chosen):
        raise typer.Exit(FAILED)


def _check_folder(folder: str, resume: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder):
        raise CliError(f"--output {folder}: expected a folder, not a file")
    content = os.listdir(folder)
    if resume and "clips.csv" in content and "clips.csv.journal" not in content:
        raise CliError(f"{folder} is complete, so --resume has nothing to do: give a new folder")
    if content and not resume:
        raise CliError(f"{folder} is not empty: add --resume to continue an interrupted run, or give a new folder")
