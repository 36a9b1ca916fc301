# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag`: inputs → records on standard output, or in a file; interrupted runs can be resumed."""

import os
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..messages import count
from ..writers import EVENT_FORMATS, FORMATS_OF_SUFFIXES, Format, check_available, write_records
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .finding import choosing, parse_limits
from .model import load_tagger, quieten
from .options import EVENTS, OUTPUT, RAY, WINDOWS, option
from .progress import RunProgress, progress_of
from .terminal import refuse_stdout, say, say_error
from .watch import Watch

if TYPE_CHECKING:
    from ..input_list import Input
    from ..records import Record
    from ..tagger import AudioTagger

STORES = ("s3://", "gs://", "gcs://", "abfs://", "abfss://", "hdfs://", "hf://")  # schemes that PyArrow reads


@one_line_errors
def tag(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATHS…", hidden=True),  # the help text describes it; Typer would show its type
    ] = None,
    list_file: options.ListFile = None,
    dataset: options.Dataset = None,
    config: options.Config = None,
    split: options.Split = None,
    audio_column: options.AudioColumn = None,
    channel: options.Channel = None,
    model: options.Model = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
    device: options.Device = None,
    num_threads: options.Threads = None,
    batch_size: options.BatchSize = None,
    top_k: options.TopK = None,
    threshold: options.Threshold = None,
    threshold_file: options.ThresholdFile = None,
    labels: options.Labels = None,
    exclude: options.Exclude = None,
    label_map: options.LabelMap = None,
    window_s: Annotated[
        float | None,
        option(WINDOWS, "--window", metavar="SECONDS", help="Window length; by default 10, with --events 2."),
    ] = None,
    hop_s: Annotated[
        float | None,
        option(
            WINDOWS,
            "--hop",
            metavar="SECONDS",
            help="Distance between window starts; by default the window length, with --events half of it.",
        ),
    ] = None,
    average: Annotated[
        str | None,
        option(
            WINDOWS,
            metavar="mean|max",
            help="How window scores are combined; by default mean. max finds short sounds, in windows of 2 s.",
        ),
    ] = None,
    events: Annotated[
        bool, option(EVENTS, "--events", help="Find when each class occurs: onset, offset and peak score.")
    ] = False,
    off_threshold: options.OffThreshold = None,
    smooth_s: options.Smooth = None,
    smoothing: options.Smoothing = None,
    min_duration_s: options.MinDuration = None,
    merge_gap_s: options.MergeGap = None,
    max_duration_s: options.MaxDuration = None,
    output: Annotated[
        str | None,
        option(
            OUTPUT,
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="Output file, written at the end; until then FILE.journal. The event formats, audacity and later, also"
            " take a folder for one file per recording; --ray writes a folder of Parquet files.",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        option(
            OUTPUT,
            "--format",
            "-f",
            metavar="FORMAT",
            help=f"{', '.join(Format)}; by default from the extension of --output, else table.",
        ),
    ] = None,
    as_json: Annotated[bool, option(OUTPUT, "--json", help="Same as --format json.")] = False,
    timeline: Annotated[
        bool, option(OUTPUT, "--timeline", help="Write the scores of each window, one column per class.")
    ] = False,
    wide: Annotated[
        bool, option(OUTPUT, "--wide", help="Write the scores of each input, one column per class (csv, parquet).")
    ] = False,
    resume: Annotated[
        bool, option(OUTPUT, "--resume", help="Keep the results in --output; tag only missing and failed inputs.")
    ] = False,
    overwrite: Annotated[bool, option(OUTPUT, "--overwrite", help="Discard the results in --output.")] = False,
    watch: Annotated[
        bool, option(OUTPUT, "--watch", help="Tag the files in a folder, and new files as they appear, until Ctrl-C.")
    ] = False,
    start_time: options.StartTime = None,
    timezone: options.Timezone = None,
    spreadsheet_safe: Annotated[
        bool,
        option(OUTPUT, "--spreadsheet-safe", help="csv: put ' before names that a spreadsheet would run as formulas."),
    ] = False,
    ray: Annotated[bool, option(RAY, "--ray", help="Run on the nodes of a Ray cluster.")] = False,
    ray_address: Annotated[
        str | None,
        option(RAY, metavar="HOST:PORT", help="Head of the cluster; by default RAY_ADDRESS, else this machine."),
    ] = None,
    workers: Annotated[
        int | None, option(RAY, metavar="N", min=1, help="Number of workers; by default as many as fit on the cluster.")
    ] = None,
    shard_size: Annotated[
        int | None, option(RAY, metavar="N", min=1, help="Inputs per output file; by default 16 to 256.")
    ] = None,
) -> None:
    """List the sounds in audio files, with scores or times.

    PATHS are files, folders (searched recursively, without hidden files), patterns such as "**/*.wav", or - for
    standard input. With --ray, PATHS and --output may be URIs, such as s3://bucket/folder. With --dataset, the rows of
    a data set are tagged; Parquet files on the Hub are streamed.

    If a file cannot be read, the run continues with the next. Exit code: 0, 1 if inputs failed (each is named on stderr
    and in the output), 2 for wrong usage.

    In json, jsonl, csv and parquet, bytes of a file name that are not UTF-8 are written as \\xNN, and a backslash
    before xNN as \\x5c.
    """
    if as_json and format not in (None, Format.JSON):
        raise CliError(f"give either --json or --format {format}, not both")
    format = _choose_format(Format.JSON if as_json else format, output, ray, resume)
    kind = "events" if events or format in EVENT_FORMATS else "windows" if timeline else "scores" if wide else "tags"
    if kind == "events":
        cause = "--events" if events else f"--format {format}, which has events"
        options.refuse(
            f"has no effect with {cause}", timeline=timeline or None, wide=wide or None, top_k=top_k, average=average
        )
    elif kind != "tags":
        cause = f"--{'timeline' if timeline else 'wide'}, which writes all scores; choose classes with --labels"
        options.refuse(f"has no effect with {cause}", top_k=top_k, threshold=threshold, thresholds=threshold_file)
        options.refuse("has no effect with --timeline" if timeline else "", wide=wide or None, average=average)
        options.refuse("does not work with --ray" if ray else "", timeline=timeline or None, wide=wide or None)
    if wide and format is Format.TABLE:
        raise CliError("--wide needs --format csv, parquet, json or jsonl")
    finding = options.given(
        off_threshold=off_threshold,
        smooth_s=smooth_s,
        smoothing=smoothing,
        min_duration_s=min_duration_s,
        merge_gap_s=merge_gap_s,
        max_duration_s=max_duration_s,
    )
    options.refuse("" if kind == "events" else "needs --events", **finding)
    options.refuse("" if start_time else "needs --start-time", timezone=timezone)
    options.refuse("" if ray else "needs --ray", ray_address=ray_address, workers=workers, shard_size=shard_size)
    options.refuse("" if output else "needs --output FILE", resume=resume or None, overwrite=overwrite or None)
    options.refuse("" if dataset else "needs --dataset", config=config, split=split, audio_column=audio_column)
    if watch and (list_file or dataset or ray or len(paths or []) != 1):
        raise CliError("--watch needs one folder, without --from, --dataset or --ray")
    if dataset and (paths or list_file or ray):
        other = "PATHS" if paths else "--from" if list_file else "--ray"
        raise CliError(f"give either {other} or --dataset, not both")
    if resume and overwrite:
        raise CliError("--resume keeps the results, --overwrite discards them: choose one")
    if spreadsheet_safe and format is not Format.CSV:
        raise CliError(f"--spreadsheet-safe needs --format csv, not {format}")
    if not ray:  # which checks all of its packages
        check_available(format)
    tagging = options.given(window_s=window_s, hop_s=hop_s, channel=options.parse_channel(channel))
    tagging |= choosing(labels, exclude, label_map) | options.given(start_time=start_time, timezone=timezone)
    tagging |= finding | parse_limits(threshold, threshold_file, labels, kind == "events")
    tagging |= options.given(top_k=top_k, average=average)
    computing: dict[str, Any] = {
        "model": model,
        "engine": engine,
        "compute_type": compute_type,
        "device": device,
        "num_threads": num_threads,
        "batch_size": batch_size,
    }
    paths = paths or []
    if ray:
        from .ray import tag_on_ray

        storing: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "ray_address": ray_address}
        storing |= {"workers": workers, "shard_size": shard_size}
        progress = tag_on_ray(
            paths, str(output), list_file=list_file, events=events, options=tagging, **computing, **storing
        )
    else:
        run = _Run([], computing, tagging, kind, format, spreadsheet_safe)
        if watch:
            run.watch = Watch(paths[0])
        elif dataset:
            quieten()
            from ..dataset_rows import DatasetRows, audio_inputs, find_dataset

            files = find_dataset(dataset, config, audio_column)
            split = files.choose(split)
            run.lasting = options.given(dataset=dataset, config=config, split=split, audio_column=audio_column)
            if files.is_table:
                rows = DatasetRows(files, split, audio_column)
                run.inputs, run.fill = rows.inputs(), rows.fill
            else:
                run.inputs = audio_inputs(files, split)
        elif remote := [path for path in paths if path.startswith(STORES)]:
            raise CliError(f"{remote[0]}: to read from a store add --ray --output DIR, or download the files first")
        else:
            from ..input_list import find_inputs

            run.inputs = find_inputs(paths, list_file)
            if start_time not in (None, "auto", "none") and len(run.inputs) > 1:
                count = len(run.inputs)
                raise CliError(
                    f"--start-time {start_time} is for one recording, but there are {count}: use --start-time auto"
                )
        with run.watch.signals() if run.watch else nullcontext():
            progress = run.to_stdout() if output is None else run.to_file(output, resume, overwrite, paths)
    if progress.total > 1 or watch:
        say(progress.summary(has_speed=not watch))  # most of the time of a watch is waiting
    if progress.failed:
        raise typer.Exit(FAILED)


def _choose_format(format: Format | None, output: str | None, ray: bool, resume: bool) -> Format:
    if ray:
        if output is None or format not in (None, Format.PARQUET):
            raise CliError("--ray writes a folder of Parquet files: give --output DIR, without --format")
        return Format.PARQUET
    if output is None:
        if format is Format.PARQUET:
            raise CliError("--format parquet needs --output FILE")
        return format or Format.TABLE
    if format not in EVENT_FORMATS and (os.path.isdir(output) or output.endswith(("/", os.sep))):
        raise CliError(f"--output {output}: expected a file; only --format {'|'.join(EVENT_FORMATS)} writes a folder")
    if format is None:
        formats = FORMATS_OF_SUFFIXES.get(os.path.splitext(output)[1].lower(), tuple(Format))
        if formats in ((Format.DCASE,), tuple(Format)) or formats[0] is Format.TABLE:
            raise CliError(
                f"--output {output}: the extension does not show the format; add --format {'|'.join(formats)}"
            )
        format = formats[0]
    if resume and format is Format.TABLE:
        raise CliError("--resume does not work with --format table")
    return format


def _kept(results: int, output: str) -> str:
    return f"{count(results, 'result')} of {output} {'is' if results == 1 else 'are'} kept"


@dataclass
class _Run:
    """
    A run on this machine.

    Attributes:
        inputs: The inputs to tag.
        computing: Keyword arguments of `load_tagger`.
        tagging: Options of `make_records`.
        kind, format, spreadsheet_safe: As for `write_records`.
        fill: Adds the audio to inputs of a data set.
        lasting: Further options that must be the same when an output is resumed.
        watch: The watched folder, if any. Its files are the inputs.
    """

    inputs: list["Input"]
    computing: dict[str, Any]
    tagging: dict[str, Any]
    kind: str
    format: Format
    spreadsheet_safe: bool
    fill: Callable[[list["Input"]], Iterable["Input"]] = iter
    lasting: dict[str, Any] = field(default_factory=dict)
    watch: Watch | None = None

    def load(self) -> "AudioTagger":
        """Loads the model and checks the options against it."""
        from ..records import check_options

        tagger = load_tagger(**self.computing)
        check_options(tagger, self.tagging, self.kind)
        return tagger

    def to_stdout(self) -> RunProgress:
        from ..records import has_times, made_by
        from ..writers.event_files import check_combines

        if len(self.inputs) > 1 or self.watch:
            check_combines(self.format)
        tagger = self.load()
        with progress_of(self.inputs) as progress:
            try:
                same_terminal = self.format is Format.TABLE and sys.stdout.isatty() and sys.stderr.isatty()
                with closing(self.records(tagger, self.inputs, progress, say_errors=not same_terminal)) as records:
                    write_records(
                        records,
                        sys.stdout.buffer,
                        self.format,
                        self.kind,
                        spreadsheet_safe=self.spreadsheet_safe,
                        made_by=made_by(tagger) if self.format in EVENT_FORMATS else None,
                        has_times=has_times(self.tagging),
                    )
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt(f"{progress.done} of {len(self.inputs)} inputs are done") from error
            except OSError as error:
                refuse_stdout(error)
        return progress

    def to_file(self, output: str, resume: bool, overwrite: bool, folders: list[str]) -> RunProgress:
        from ..input_list import STANDARD_INPUT, escape_name
        from ..journal import Journal
        from ..records import WIDE, made_by, wide_classes

        if resume and any(item.name == STANDARD_INPUT for item in self.inputs):
            raise CliError("--resume does not work with standard input: save it as a file first")
        lasting = {"format": self.format, "events": self.kind == "events"} | self.tagging | self.lasting
        if self.spreadsheet_safe:
            lasting["spreadsheet_safe"] = True
        if self.kind in WIDE:
            lasting["wide"] = self.kind
        names = [item.name for item in self.inputs]
        journal = Journal(output, lasting, list(map(escape_name, folders)))
        try:
            if resume:
                journal.load()
            elif overwrite:
                journal.overwrite()
            else:
                journal.refuse_existing(names)
            if (files := journal.event_files) is not None:
                files.check_number([*journal.offsets, *names])
                if resume:
                    files.refuse_existing((name for name in names if name not in journal), journal.is_begun)
            waiting = [item for item in self.inputs if item.name not in journal]
            if self.watch:
                self.watch.is_done = journal.__contains__
                if journal.offsets:
                    say(_kept(len(journal.offsets), journal.output))
            progress = progress_of(waiting)
            tagger = self.load() if waiting or self.watch else None
            if tagger and journal.classes and journal.classes != wide_classes(tagger, self.tagging):
                raise CliError(
                    f"{output} has scores of different classes: resume with the same ones, or use --overwrite"
                )
            if kept := len(self.inputs) - len(waiting):
                note = ""
                if journal.is_finished and self.format not in (Format.PARQUET, *EVENT_FORMATS):
                    note = "; the model and options that made them are not recorded there"
                shown = files.output if files else journal.output
                say(_kept(kept, shown) + note)
            elif journal.is_finished and journal.offsets and not self.watch:
                say(f"the results of other inputs in {journal.output} are kept")
            if tagger is not None:
                journal.begin(made_by(tagger))
                with progress:
                    try:
                        with closing(self.records(tagger, waiting, progress)) as records:
                            for record in records:
                                journal.append(record)
                    except KeyboardInterrupt as error:
                        raise KeyboardInterrupt(journal.advice) from error
            if not journal.is_finished:
                journal.finish(names)
        finally:
            journal.close()
        return progress

    def records(
        self, tagger: "AudioTagger", inputs: list["Input"], progress: RunProgress, say_errors: bool = True
    ) -> Generator["Record", None, None]:
        """Yields records and counts them. Failed ones are also printed on stderr."""
        from ..records import make_records

        how: dict[str, Any] = {"kind": self.kind, "sampling_rate": self.format is Format.RAVEN}
        batches: Iterable[Any] = [self.fill(inputs)] if self.watch is None else self.watch.batches()
        for batch in batches:
            progress.total += len(batch) if self.watch else 0
            with closing(make_records(tagger, batch, self.tagging, on_audio=progress.add_audio, **how)) as made:
                for record in made:
                    error = record.get("error")
                    progress.count(failed=error is not None)
                    if error is not None and say_errors:
                        with progress.hidden():
                            say_error(record["file"], error)
                    if sys.stdout.isatty():
                        with progress.hidden():
                            yield record
                    else:
                        yield record
                    if self.watch and self.watch.stopped.is_set():
                        return
