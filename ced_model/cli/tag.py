# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag`: inputs → records → standard output, or a file that an interrupted run can go on with."""

import math
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from ..engines import choose_engine
from .errors import FAILED, INTERRUPTED, CliError
from .formats import Format, Record, check_available, sound_record, write_records
from .inputs import STANDARD_INPUT, Input, find_inputs
from .journal import Journal
from .model import choose_model, load_tagger, parse_channel
from .progress import RunProgress
from .terminal import one_line, refuse_stdout, say

if TYPE_CHECKING:
    from .. import AudioTagger, TagResult

EVENT_THRESHOLD = 0.5
STORES = ("s3://", "gs://", "gcs://", "abfs://", "abfss://", "hdfs://", "hf://")  # which PyArrow reads


@dataclass(frozen=True)
class TagOptions:
    """The options of `ced tag`, named as on the command line; None where they were not given."""

    model: str | None = None
    top_k: int | None = None
    threshold: float | None = None
    labels: tuple[str, ...] | None = None
    window: float | None = None
    hop: float | None = None
    average: str | None = None
    channel: str | None = None
    events: bool = False
    min_duration: float | None = None
    merge_gap: float | None = None
    format: Format | None = None
    output: str | None = None
    resume: bool = False
    overwrite: bool = False
    spreadsheet_safe: bool = False
    engine: str | None = None
    compute_type: str | None = None
    device: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    ray: bool = False
    ray_address: str | None = None
    workers: int | None = None
    shard_size: int | None = None


def tag(paths: list[str], list_file: str | None, options: TagOptions) -> None:
    """
    Tags what `find_inputs` makes of `paths` and `list_file`, and writes what was found.

    Raises:
        CliError: for wrong usage, and where it cannot go on.
        typer.Exit: at the end, if inputs failed.
    """
    format = check_options(options)
    if options.ray:
        from .ray import tag_on_ray

        progress = tag_on_ray(paths, list_file, options)
    elif remote := [path for path in paths if path.startswith(STORES)]:
        raise CliError(f"{remote[0]}: to read from there add --ray --output DIR, or download it first")
    elif options.output is None:
        progress = _tag_to_stdout(find_inputs(paths, list_file), options, format)
    else:
        progress = _tag_to_file(find_inputs(paths, list_file), options, format, options.output)
    if progress.total > 1:
        say(progress.summary())
    if progress.failed:
        raise typer.Exit(FAILED)


def check_options(options: TagOptions) -> Format:
    """Raises `CliError` for what can be seen to be wrong without the model; returns the format."""
    for name in ("threshold", "window", "hop", "min_duration", "merge_gap"):
        _check_number(name, getattr(options, name))
    if options.window and options.hop and options.hop > options.window:
        raise CliError(f"--hop {options.hop:g} is longer than --window {options.window:g}: audio would be left out")
    for name in ("min_duration", "merge_gap") if not options.events else ("top_k", "average"):
        if getattr(options, name) is not None:
            raise CliError(f"{_flag(name)} {'has no meaning with' if options.events else 'needs'} --events")
    if options.resume and options.overwrite:
        raise CliError("--resume keeps results, --overwrite discards them: choose one")
    if options.output is None and (options.resume or options.overwrite):
        raise CliError(f"--{'resume' if options.resume else 'overwrite'} needs --output FILE")
    for name in ("ray_address", "workers", "shard_size") if not options.ray else ():
        if getattr(options, name) is not None:
            raise CliError(f"{_flag(name)} needs --ray")
    parse_channel(options.channel)
    format = _choose_format(options)
    if options.spreadsheet_safe and format is not Format.CSV:
        raise CliError(f"--spreadsheet-safe is for --format csv, not {format}")
    check_available(format)
    choose_engine(options.engine or "auto", options.compute_type, options.device)
    choose_model(options.model)
    return format


def _check_number(name: str, value: float | None) -> None:
    if value is None:
        return
    if name == "threshold":
        is_valid, wanted = 0 <= value <= 1, "a score from 0 to 1"
    elif name in ("window", "hop"):
        is_valid, wanted = 0 < value < math.inf, "seconds above 0"
    else:
        is_valid, wanted = 0 <= value < math.inf, "seconds from 0"
    if not is_valid:
        raise CliError(f"{_flag(name)} {value:g}: expected {wanted}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _choose_format(options: TagOptions) -> Format:
    format = options.format
    if options.ray:
        if options.output is None or format not in (None, Format.PARQUET):
            raise CliError("--ray writes a folder of Parquet files: give --output DIR, and no other --format")
        return Format.PARQUET
    if options.output is None:
        if format is Format.PARQUET:
            raise CliError("--format parquet needs --output FILE")
        return format or Format.TABLE
    if format is None:
        suffix = os.path.splitext(options.output)[1].lower().removeprefix(".")
        try:
            format = Format({"txt": "table"}.get(suffix, suffix))
        except ValueError as error:
            raise CliError(f"--output {options.output}: add --format {'|'.join(Format)}") from error
    if options.resume and format is Format.TABLE:
        raise CliError("--resume needs --format json, jsonl, csv or parquet")
    return format


# Tagging


def make_records(
    tagger: "AudioTagger",
    inputs: list[Input],
    options: TagOptions,
    on_audio: Callable[[float], object] | None = None,
) -> Iterator[Record]:
    """Records of inputs in their order, as they become ready; `on_audio` is told the seconds that were scored."""
    readable = [item for item in inputs if item.error is None]
    results = _results(tagger, (item.source for item in readable), options, on_audio)
    for item in inputs:
        if item.error is not None:
            yield {"file": item.name, "error": item.error}
        else:
            yield sound_record(_record(item.name, next(results), options), options.events)


def _results(
    tagger: "AudioTagger",
    sources: Iterable[Any],
    options: TagOptions,
    on_audio: Callable[[float], object] | None = None,
) -> Iterator["TagResult"]:
    labels = None if options.labels is None else list(options.labels)
    if not options.events:
        return tagger.tag(
            sources,
            top_k=options.top_k,
            threshold=options.threshold,
            labels=labels,
            window_s=options.window,
            hop_s=options.hop,
            average=options.average or "mean",
            channel=parse_channel(options.channel),
            on_audio=on_audio,
        )
    from ..tagger import TIMELINE_WINDOW_S

    window_s = TIMELINE_WINDOW_S if options.window is None else options.window
    reading: dict[str, Any] = {"hop_s": options.hop, "channel": parse_channel(options.channel)}
    return tagger.timelines(sources, window_s=window_s, on_audio=on_audio, **reading)


def _record(name: str, result: "TagResult", options: TagOptions) -> Record:
    if result.error is not None:
        return {"file": name, "error": _reason(result)}
    record: Record = {"file": name, "duration_s": result.duration_s}
    if result.timeline is not None:
        events = result.timeline.events(_thresholds(options), options.min_duration or 0.0, options.merge_gap or 0.0)
        record["events"] = [
            {
                "onset_s": round(event.onset_s, 6),
                "offset_s": round(event.offset_s, 6),
                "label": _storable(event.label),
                "peak": _score(event.peak),
            }
            for event in events
        ]
    else:
        record["tags"] = [
            {"label": _storable(tag.label), "score": _score(tag.score), "index": tag.index} for tag in result.tags
        ]
    return record


def _thresholds(options: TagOptions) -> float | dict[str, float]:
    threshold = EVENT_THRESHOLD if options.threshold is None else options.threshold
    return threshold if options.labels is None else dict.fromkeys(options.labels, threshold)


def _score(score: float) -> float:
    return float(f"{score:.7g}")  # a float32 has no more digits


def _storable(text: str) -> str:
    """Text that any format can hold: half a surrogate pair is escaped."""
    return text.encode(errors="backslashreplace").decode()


def _reason(result: "TagResult") -> str:
    """Why an input failed, in one line without its name."""
    text = " ".join(str(result.error).split()).removeprefix(f"{result.name}: ")
    if _is_pipe(result.source):
        text += "; send it to `ced tag -`"
    return _storable(text) or type(result.error).__name__


def _is_pipe(source: Any) -> bool:
    """Whether it is the path of a FIFO, such as the shell's process substitution gives."""
    try:
        return isinstance(source, str) and stat.S_ISFIFO(os.stat(source).st_mode)
    except (OSError, ValueError):
        return False


def load(options: TagOptions) -> "AudioTagger":
    """Loads the model and checks the options that depend on it."""
    tagger = load_tagger(
        choose_model(options.model),
        engine=options.engine,
        compute_type=options.compute_type,
        device=options.device,
        num_threads=options.threads,
        batch_size=options.batch_size,
    )
    list(_results(tagger, [], options))
    if options.events:
        from ..events import check_event_options

        check_event_options(tagger.labels, _thresholds(options), 0.0, 0.0)
    return tagger


def _progress(inputs: list[Input]) -> RunProgress:
    length_s = None
    if len(inputs) == 1 and inputs[0].error is None and sys.stderr.isatty():
        from ..audio import duration_s

        length_s = duration_s(inputs[0].source)
    return RunProgress(len(inputs), length_s)


def _watched(records: Iterator[Record], progress: RunProgress, say_errors: bool = True) -> Iterator[Record]:
    """The records, counted, and failed ones named on stderr."""
    for record in records:
        error = record.get("error")
        progress.count(failed=error is not None)
        if error is not None and say_errors:
            with progress.hidden():
                print_error(record["file"], error)
        if sys.stdout.isatty():
            with progress.hidden():
                yield record
        else:
            yield record


def print_error(name: str, error: str) -> None:
    say(f"{name}: {one_line(error)}")


# To standard output


def _tag_to_stdout(inputs: list[Input], options: TagOptions, format: Format) -> RunProgress:
    tagger = load(options)
    with _progress(inputs) as progress:
        try:
            same_terminal = format is Format.TABLE and sys.stdout.isatty() and sys.stderr.isatty()
            records = _watched(
                make_records(tagger, inputs, options, progress.add_audio), progress, say_errors=not same_terminal
            )
            write_records(records, sys.stdout.buffer, format, options.events, options.spreadsheet_safe)
        except KeyboardInterrupt as error:
            raise CliError(f"interrupted after {progress.done} of {len(inputs)} inputs", INTERRUPTED) from error
        except OSError as error:
            refuse_stdout(error)
    return progress


# To a file


def _tag_to_file(inputs: list[Input], options: TagOptions, format: Format, output: str) -> RunProgress:
    if options.resume and any(item.name == STANDARD_INPUT for item in inputs):
        raise CliError("--resume cannot know whether standard input is the same")
    journal = Journal(output, lasting_options(options, format))
    try:
        if options.resume:
            journal.load()
        elif options.overwrite:
            journal.overwrite()
        else:
            journal.refuse_existing()
        waiting = [item for item in inputs if item.name not in journal]
        progress = _progress(waiting)
        tagger = load(options) if waiting else None
        if len(waiting) < len(inputs):
            _print_kept(len(inputs) - len(waiting), journal)
        if tagger is not None:
            journal.begin(tagger.fingerprint)
            records = make_records(tagger, waiting, options, progress.add_audio)
            _journal_records(journal, progress, records)
        if not journal.is_finished:
            journal.finish(item.name for item in inputs)
    finally:
        journal.close()
    return progress


def _print_kept(count: int, journal: Journal) -> None:
    note = ""
    if journal.is_finished:
        note = ", made with whatever model and options there were: a finished output does not tell"
    say(f"{count} results of {journal.output} are kept{note}")


def _journal_records(journal: Journal, progress: RunProgress, records: Iterator[Record]) -> None:
    with progress:
        try:
            for record in _watched(records, progress):
                journal.append(record)
        except KeyboardInterrupt as error:
            raise CliError(f"interrupted; {journal.advice}", INTERRUPTED) from error


def lasting_options(options: TagOptions, format: Format) -> dict[str, Any]:
    """What all results in one output must have in common, by the names of the options."""
    names = ("top_k", "threshold", "labels", "window", "hop", "average", "events", "min_duration", "merge_gap")
    channel = parse_channel(options.channel)
    computing = {
        "engine": None if options.engine == "auto" else options.engine,
        "compute-type": None if options.compute_type == "float32" else options.compute_type,
    }
    lasting = {"format": format} | {name.replace("_", "-"): getattr(options, name) for name in names} | computing
    lasting["channel"] = None if channel == "mix" else channel
    return lasting | ({"spreadsheet-safe": True} if options.spreadsheet_safe else {})
