# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Records: the results of a run over many inputs, as they are stored.

A record is a JSON object for one input: `{"file", "duration_s", "tags": [{"label", "score", "index"}]}`, or of events
`{"file", "duration_s", "events": [{"onset_s", "offset_s", "label", "peak"}]}`, or `{"file", "error"}` if the input
could not be read. Instead of tags, it may have the `scores` of all classes (`{class: score}`), or those of its
`windows` (`[{"start_s", "end_s", "scores"}]`). Where an output needs it, a record also has the `sampling_rate` of its
file in Hz; `recorded_at` is when its recording began (ISO 8601).

In tables each tag or event is a row; an input without any is a row with its file and duration, a failed one a row with
its file and error.
"""

import math
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

from .messages import OptionError, UsageError, one_line

if TYPE_CHECKING:
    from .classes import ClassChoice
    from .input_list import Input
    from .results import TagResult
    from .tagger import AudioTagger

Record = dict[str, Any]

TAG_COLUMNS = ("file", "duration_s", "rank", "label", "index", "score", "error")
EVENT_COLUMNS = ("file", "duration_s", "onset_s", "offset_s", "label", "peak", "error")
NUMBERS: dict[str, type] = {"rank": int, "index": int} | dict.fromkeys(
    ("duration_s", "sampling_rate", "start_s", "end_s", "score", "onset_s", "offset_s", "peak"), float
)
ITEM_KEYS = {"tags": ("label", "score", "index"), "events": ("onset_s", "offset_s", "label", "peak")}
OPTIONAL_KEYS = {"sampling_rate", "recorded_at"}


def make_records(
    tagger: "AudioTagger",
    inputs: Iterable["Input"],
    options: Mapping[str, Any],
    *,
    events: bool = False,
    sampling_rate: bool = False,
    wide: str = "",
    on_audio: Callable[[float], object] | None = None,
) -> Iterator[Record]:
    """
    Tags inputs one after another.

    Args:
        tagger: The tagger.
        inputs: The inputs.
        options: Keyword arguments of `AudioTagger.tag`, or with `events` of `AudioTagger.events`.
        events: Whether to find events instead of tags.
        sampling_rate: Whether records have the sampling rates of their files.
        wide: `"clips"` or `"windows"` for the scores of all classes (or of `labels`) instead of tags. The options of
            `"windows"` are `labels` and the keyword arguments of `AudioTagger.timelines`.
        on_audio: Called with the seconds of audio whenever some more were scored.

    Yields:
        A record of each input, in their order, as soon as it is ready.

    Raises:
        OptionError: for options that are not possible, before any input is read.
    """
    from .audio import native_sampling_rate

    waiting: deque[Input] = deque()  # inputs that were taken, in their order
    choices = wide_choices(tagger, options) if wide else []

    def sources() -> Iterator[Any]:
        for item in inputs:
            waiting.append(item)
            if item.error is None:
                yield item.source

    for result in _results(tagger, sources(), options, events, on_audio, wide):
        while (item := waiting.popleft()).error is not None:
            yield {"file": item.name, "error": item.error}
        if wide and result.error is None:
            record = _wide_record(item.name, result, choices, options)
        else:
            record = _record(item.name, result, options, events)
        if item.place is not None and "error" in record:
            record["error"] = f"{item.place}: {record['error']}"
        if sampling_rate and "error" not in record and (rate := native_sampling_rate(item.source)):
            record["sampling_rate"] = rate
        yield sound_record(record, events)
    for item in waiting:
        yield {"file": item.name, "error": item.error}


def wide_choices(tagger: "AudioTagger", options: Mapping[str, Any]) -> list["ClassChoice"]:
    """The classes and groups whose scores are stored."""
    from .classes import choose_classes

    return choose_classes(tagger.labels, options.get("labels"), **_choosing(options, "exclude", "label_map"))


def wide_classes(tagger: "AudioTagger", options: Mapping[str, Any]) -> list[str]:
    """Their names, as they are stored."""
    return [_storable(choice.label) for choice in wide_choices(tagger, options)]


def _wide_record(
    name: str, result: "TagResult", choices: Sequence["ClassChoice"], options: Mapping[str, Any]
) -> Record:
    record = _head(name, result, options)
    if result.timeline is None:
        scores = {tag.label: tag.score for tag in result.tags}
        record["scores"] = {_storable(choice.label): _score(scores[choice.label]) for choice in choices}
    else:
        timeline = result.timeline.take(choices)
        labels = [_storable(label) for label in timeline.labels]
        record["windows"] = [
            {
                "start_s": round(float(start_s), 6),
                "end_s": round(float(end_s), 6),
                "scores": dict(zip(labels, map(_score, scores.tolist()), strict=True)),
            }
            for start_s, end_s, scores in zip(timeline.start_s, timeline.end_s, timeline.scores, strict=True)
        ]
    return record


def has_times(options: Mapping[str, Any]) -> bool:
    """Whether records made with these options have `recorded_at`."""
    return options.get("start_time") not in (None, "none")


def _head(name: str, result: "TagResult", options: Mapping[str, Any]) -> Record:
    record: Record = {"file": name, "duration_s": result.duration_s}
    if has_times(options):
        record["recorded_at"] = result.recorded_at
    return record


def check_options(tagger: "AudioTagger", options: Mapping[str, Any], events: bool = False, wide: str = "") -> None:
    """Raises an [`OptionError`] if [`make_records`] cannot take the options."""
    list(_results(tagger, [], options, events, wide=wide))
    if wide:
        taken = {"file", "duration_s", "recorded_at", "start_s", "end_s", "error"} & set(wide_classes(tagger, options))
        if taken:
            raise OptionError("labels", min(taken), "classes with other names than the columns of the table")
    from .classes import choose_classes
    from .events import class_limits, event_rules

    chosen: Sequence[Any]
    given = options.get("thresholds" if events else "threshold")
    limits = [("threshold", given, "")]
    if events:
        chosen = event_rules(tagger.labels, **_finding(options))
        limits.append(("off_threshold", options.get("off_threshold"), ""))
    elif isinstance(given, Mapping):
        chosen = class_limits(tagger.labels, given, with_silence=True, **_choosing(options))
    else:
        chosen = choose_classes(tagger.labels, options.get("labels"), **_choosing(options, "exclude", "label_map"))
    if not chosen:
        raise UsageError("no class is left: none was asked for, or all are excluded or without a name in the label map")
    if isinstance(given, Mapping):
        by_class = [(each if isinstance(each, Mapping) else {"threshold": each}, name) for name, each in given.items()]
        names = ("threshold", "off_threshold")
        limits += [(key, each.get(key), getattr(name, "place", "")) for each, name in by_class for key in names]
    for option, value, place in limits:
        if tagger.problem_type != "regression" and isinstance(value, int | float) and not 0 <= value <= 1:
            wanted = "a score from 0 to 1"
            if place:
                raise UsageError(f"{place}, {option}: expected {wanted}, found {value:g}")
            raise OptionError(option, value, wanted)


def _choosing(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.get(name) for name in names or ("labels", "exclude", "label_map")}


def _finding(options: Mapping[str, Any]) -> dict[str, Any]:
    from .events import EVENT_OPTIONS

    return {name: value for name, value in options.items() if name in EVENT_OPTIONS}


def _results(
    tagger: "AudioTagger",
    sources: Iterable[Any],
    options: Mapping[str, Any],
    events: bool,
    on_audio: Callable[[float], object] | None = None,
    wide: str = "",
) -> Iterator["TagResult"]:
    if wide == "clips":
        options = {"top_k": len(wide_choices(tagger, options)) or None, **options}
    if not events and wide != "windows":
        return tagger.tag(sources, on_audio=on_audio, **options)
    reading = {name: value for name, value in options.items() if name not in _finding(options)}
    return tagger.timelines(sources, on_audio=on_audio, **reading)


def _record(name: str, result: "TagResult", options: Mapping[str, Any], events: bool) -> Record:
    if result.error is not None:
        return {"file": name, "error": _reason(result)}
    record = _head(name, result, options)
    if events:
        assert result.timeline is not None
        record["events"] = [
            {
                "onset_s": round(event.onset_s, 6),
                "offset_s": round(event.offset_s, 6),
                "label": _storable(event.label),
                "peak": _score(event.peak),
            }
            for event in result.timeline.events(**_finding(options))
        ]
    else:
        record["tags"] = [
            {"label": _storable(tag.label), "score": _score(tag.score), "index": tag.index} for tag in result.tags
        ]
    return record


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


# What a record may hold


def check_record(record: Any, events: bool) -> None:
    """Raises a ValueError unless `record` is one as the module describes them, with finite numbers."""
    key = "events" if events else "tags"
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        raise ValueError(f"{excerpt(record)} is not the record of a file")
    if record.keys() == {"file", "error"} and isinstance(record["error"], str):
        return
    for key in {"scores", "windows"} & record.keys():
        _check_wide(record, key)
        return
    if record.keys() - OPTIONAL_KEYS != {"file", "duration_s", key} or not isinstance(record[key], list):
        raise ValueError(f"{record['file']!r} has neither {key} nor an error, or more than that")
    _check_number(record, "duration_s")
    if "sampling_rate" in record:
        _check_number(record, "sampling_rate")
    if not isinstance(record.get("recorded_at"), str | None):
        raise ValueError(f"recorded_at is {excerpt(record['recorded_at'])}, not a date and time")
    for item in record[key]:
        if not isinstance(item, dict) or item.keys() != set(ITEM_KEYS[key]) or not isinstance(item["label"], str):
            raise ValueError(f"{record['file']!r} has {excerpt(item)} among its {key}")
        for name in item.keys() - {"label"}:
            _check_number(item, name)


def _check_wide(record: Record, key: str) -> None:
    windows = record[key] if key == "windows" else [{"scores": record[key]}]
    if record.keys() - OPTIONAL_KEYS != {"file", "duration_s", key} or not isinstance(windows, list):
        raise ValueError(f"{record['file']!r} has more than {key}")
    _check_number(record, "duration_s")
    for window in windows:
        times = {"start_s", "end_s"} if key == "windows" else set()
        if (
            not isinstance(window, dict)
            or window.keys() != {"scores", *times}
            or not isinstance(window["scores"], dict)
        ):
            raise ValueError(f"{record['file']!r} has {excerpt(window)} among its {key}")
        for name in times:
            _check_number(window, name)
        for name, score in window["scores"].items():
            _check_number({"score": score} if isinstance(name, str) else {}, "score")


def _check_number(values: Record, name: str) -> None:
    value = values[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (NUMBERS[name] is int and not isinstance(value, int)):
        raise ValueError(f"{name} is {excerpt(value)}, not a finite number")


def excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def sound_record(record: Record, events: bool) -> Record:
    """The record, or if it is not one that all formats can hold, one with that as its error."""
    try:
        check_record(record, events)
        return record
    except ValueError as error:
        return {"file": str(record["file"]), "error": f"the result cannot be stored: {one_line(error)}"}


def check_same_options(path: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises an [`OptionError`] for the first option that is not what it was when the results of `path` were begun."""
    for name in {**now, **then}:
        if then.get(name) != now.get(name):
            before = "not given" if then.get(name) is None else then[name]
            raise OptionError(name, now.get(name), f"{before}, as when {path} was begun; or overwrite it")


def made_by(tagger: "AudioTagger") -> dict[str, str]:
    """What makes records, as it is stored with them."""
    return {
        "model": tagger.name,
        "weights": tagger.fingerprint,
        "engine": tagger.engine,
        "compute_type": tagger.compute_type,
    }


def check_same_maker(path: str, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises a `UsageError` unless results that [`made_by`] describes so can stand in one output."""
    if then["weights"] != now["weights"]:
        raise UsageError(f"{path} was begun with another model: resume with the same one, or overwrite it")
    names = ("engine", "compute_type")
    check_same_options(path, {name: then.get(name) for name in names}, {name: now[name] for name in names})


# Rows of tables


def columns(events: bool, has_times: bool = False) -> tuple[str, ...]:
    """The columns of a table of records, which may have the times of recordings."""
    names = EVENT_COLUMNS if events else TAG_COLUMNS
    return (*names[:2], "recorded_at", *names[2:]) if has_times else names


def with_times(records: Iterable[Record]) -> tuple[bool, Iterator[Record]]:
    """Whether records have `recorded_at`, as the first one that is no error decides, and all records."""
    records, first = iter(records), []
    for record in records:
        first.append(record)
        if "error" not in record:
            return "recorded_at" in record, chain(first, records)
    return False, iter(first)


def rows_of(record: Record, events: bool) -> list[dict[str, Any]]:
    """The rows of one record; empty cells are left out."""
    head = {key: record[key] for key in ("file", "duration_s", "recorded_at", "error") if key in record}
    if events:
        items = record.get("events", [])
    else:
        items = [{"rank": rank, **tag} for rank, tag in enumerate(record.get("tags", []), start=1)]
    return [head | item for item in items] or [head]


def records_of(rows: Iterable[dict[str, Any]], events: bool) -> Iterator[Record]:
    """Records from rows in which empty cells are None; the rows of an input stand together, in their order."""
    key = "events" if events else "tags"
    for file, group in groupby(rows, key=lambda row: row["file"]):
        rows_of_file = list(group)
        first = rows_of_file[0]
        record: Record = {"file": file, "error": first["error"]}
        if first["error"] is None:
            items = [{name: row[name] for name in ITEM_KEYS[key]} for row in rows_of_file]
            times = {"recorded_at": first["recorded_at"]} if "recorded_at" in first else {}
            record = {"file": file, "duration_s": first["duration_s"], **times}
            record[key] = [] if first["label"] is None else items
        empty = dict.fromkeys(columns(events, "recorded_at" in first))
        if [empty | row for row in rows_of(record, events)] != rows_of_file:
            raise ValueError(f"the rows of {file!r} are not those of one result: was one changed, removed or moved?")
        yield record
