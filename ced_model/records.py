# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Records: results of a run over many inputs, in the form in which they are stored.

A record is a JSON object for one input: `{"file", "duration_s", "tags": [{"label", "score", "index"}]}`, for events
`{"file", "duration_s", "events": [{"onset_s", "offset_s", "label", "peak"}]}`, or `{"file", "error"}` if the input
could not be read. Instead of tags, it may have the `scores` of all classes (`{class: score}`), or those of its
`windows` (`[{"start_s", "end_s", "scores"}]`). If an output needs it, a record also has the `sampling_rate` of its file
in Hz; `recorded_at` is when its recording began (ISO 8601).

In tables, each tag or event is a row. An input without any is one row with file and duration, and a failed input one
row with file and error.
"""

import math
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

from .messages import OptionError, UsageError, one_line

if TYPE_CHECKING:
    from .classes import ClassChoice
    from .input_list import Input
    from .results import TagResult
    from .tagger import AudioTagger

Record = dict[str, Any]

# The kinds of records, and the columns of their rows in addition to those of the recording.
CELLS = {
    "tags": ("rank", "label", "index", "score"),
    "events": ("onset_s", "offset_s", "label", "peak"),
    "scores": (),
    "windows": ("start_s", "end_s"),
}
REPLACING = "use `overwrite=True`"  # how to discard results, for messages
WIDE = ("scores", "windows")  # these also have one column per class
ITEM_KEYS = {
    "tags": ("label", "score", "index"),
    "events": CELLS["events"],
    "windows": (*CELLS["windows"], "scores"),
}
OPTIONAL_KEYS = {"sampling_rate", "recorded_at"}
NUMBERS: dict[str, type] = {"rank": int, "index": int} | dict.fromkeys(
    ("duration_s", "sampling_rate", "start_s", "end_s", "score", "onset_s", "offset_s", "peak"), float
)


def make_records(
    tagger: "AudioTagger",
    inputs: Iterable["Input"],
    options: Mapping[str, Any],
    *,
    kind: str = "tags",
    sampling_rate: bool = False,
    on_audio: Callable[[float], object] | None = None,
) -> Generator[Record, None, None]:
    """
    Tags inputs one after another.

    Args:
        tagger: The tagger.
        inputs: The inputs.
        options: Keyword arguments of `AudioTagger.tag`, or for `"events"` of `AudioTagger.events`. For `"windows"`,
            those of `AudioTagger.timelines`, and for both kinds of scores `labels`, `exclude` and `label_map`.
        kind: `"tags"`, `"events"`, `"scores"` of all classes (or of `labels`), or `"windows"` for those of each window.
        sampling_rate: Whether records have the sampling rates of their files.
        on_audio: Called with the number of seconds each time more audio has been scored.

    Yields:
        One record per input, in order, as soon as it is ready.

    Raises:
        OptionError: for invalid options, before any input is read.
    """
    from .audio import native_sampling_rate

    choices = wide_choices(tagger, options) if kind in WIDE else []
    for item, result in with_results(inputs, lambda sources: _results(tagger, sources, options, kind, on_audio)):
        if result is None or result.error is not None:
            is_pipe = result is not None and _is_pipe(item.source)
            yield {"file": item.name, "error": reason(item, result) + "; send it to `ced tag -`" * is_pipe}
            continue
        record: Record = {"file": item.name, "duration_s": result.duration_s}
        if has_times(options):
            record["recorded_at"] = result.recorded_at
        record[kind] = _content(result, options, kind, choices)
        if sampling_rate and (rate := native_sampling_rate(item.source)):
            record["sampling_rate"] = rate
        yield sound_record(record, kind)


def with_results(
    inputs: Iterable["Input"], compute: Callable[[Iterator[Any]], Iterable[Any]]
) -> Generator[tuple["Input", Any], None, None]:
    """Yields inputs in order, each with the result of `compute` for its source, or None if it has an error."""
    waiting: deque[Input] = deque()  # inputs without a result yet

    def sources() -> Iterator[Any]:
        for item in inputs:
            waiting.append(item)
            if item.error is None:
                yield item.source

    for result in compute(sources()):
        while (item := waiting.popleft()).error is not None:
            yield item, None
        yield item, result
    for item in waiting:
        yield item, None


def wide_choices(tagger: "AudioTagger", options: Mapping[str, Any]) -> list["ClassChoice"]:
    """The classes and groups whose scores are stored."""
    from .classes import choose_classes

    return choose_classes(tagger.labels, options.get("labels"), **_choosing(options, "exclude", "label_map"))


def wide_classes(tagger: "AudioTagger", options: Mapping[str, Any]) -> list[str]:
    """The names of [`wide_choices`] as stored."""
    return [_storable(choice.label) for choice in wide_choices(tagger, options)]


def has_times(options: Mapping[str, Any]) -> bool:
    """Whether records made with these options have `recorded_at`."""
    return options.get("start_time") not in (None, "none")


def check_options(tagger: "AudioTagger", options: Mapping[str, Any], kind: str = "tags") -> None:
    """Raises an [`OptionError`] for invalid options of [`make_records`]."""
    list(_results(tagger, [], options, kind))
    if kind in WIDE:
        taken = {"file", "duration_s", "recorded_at", "start_s", "end_s", "error"} & set(wide_classes(tagger, options))
        if taken:
            raise OptionError("labels", min(taken), "classes with other names than the columns of the table")
    from .classes import choose_classes
    from .events import class_limits, event_rules

    chosen: Sequence[Any]
    given = options.get("thresholds" if kind == "events" else "threshold")
    limits = [("threshold", given, "")]
    if kind == "events":
        chosen = event_rules(tagger.labels, **_finding(options))
        limits.append(("off_threshold", options.get("off_threshold"), ""))
    elif isinstance(given, Mapping):
        chosen = class_limits(tagger.labels, given, with_silence=True, **_choosing(options))
    else:
        chosen = choose_classes(tagger.labels, options.get("labels"), **_choosing(options, "exclude", "label_map"))
    if not chosen:
        raise UsageError("no class is left: none was given, or all are excluded or without a name in the label map")
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
    kind: str,
    on_audio: Callable[[float], object] | None = None,
) -> Iterator["TagResult"]:
    if kind == "scores":
        options = {"top_k": len(wide_choices(tagger, options)) or None, **options}
    if kind in ("tags", "scores"):
        return tagger.tag(sources, on_audio=on_audio, **options)
    reading = {name: value for name, value in options.items() if name not in _finding(options)}
    return tagger.timelines(sources, on_audio=on_audio, **reading)


def _content(result: "TagResult", options: Mapping[str, Any], kind: str, choices: Sequence["ClassChoice"]) -> Any:
    """The content of a record of this kind."""
    if kind == "tags":
        return [{"label": _storable(tag.label), "score": _score(tag.score), "index": tag.index} for tag in result.tags]
    if kind == "scores":
        scores = {tag.label: tag.score for tag in result.tags}
        return {_storable(choice.label): _score(scores[choice.label]) for choice in choices}
    assert result.timeline is not None
    if kind == "events":
        return [
            {
                "onset_s": round(event.onset_s, 6),
                "offset_s": round(event.offset_s, 6),
                "label": _storable(event.label),
                "peak": _score(event.peak),
            }
            for event in result.timeline.events(**_finding(options))
        ]
    timeline = result.timeline.take(choices)
    labels = [_storable(label) for label in timeline.labels]
    return [
        {
            "start_s": round(float(start_s), 6),
            "end_s": round(float(end_s), 6),
            "scores": dict(zip(labels, map(_score, scores.tolist()), strict=True)),
        }
        for start_s, end_s, scores in zip(timeline.start_s, timeline.end_s, timeline.scores, strict=True)
    ]


def _score(score: float) -> float:
    return float(f"{score:.7g}")  # the precision of float32


def _storable(text: str) -> str:
    """Text that can be stored in any format: lone surrogates are escaped."""
    return text.encode(errors="backslashreplace").decode()


def reason(item: "Input", result: Any) -> str:
    """The reason why an input failed, on one line and without its name."""
    if result is None:
        return str(item.error)
    text = " ".join(str(result.error).split()).removeprefix(f"{result.name}: ")
    place = "" if item.place is None else f"{item.place}: "
    return place + (_storable(text) or type(result.error).__name__)


def _is_pipe(source: Any) -> bool:
    """Whether it is the path of a FIFO, such as that of a process substitution of the shell."""
    try:
        return isinstance(source, str) and stat.S_ISFIFO(os.stat(source).st_mode)
    except (OSError, ValueError):
        return False


# Checks


def check_record(record: Any, kind: str) -> None:
    """Raises a ValueError unless `record` is a valid record with finite numbers."""
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        raise ValueError(f"{excerpt(record)} is not the record of a file")
    if record.keys() == {"file", "error"} and isinstance(record["error"], str):
        return
    content: Any = record.get(kind)
    is_known = record.keys() - OPTIONAL_KEYS == {"file", "duration_s", kind}
    if not is_known or not isinstance(content, dict if kind == "scores" else list):
        raise ValueError(f"{record['file']!r} has neither {kind} nor an error, or more than that")
    _check_number(record, "duration_s")
    if "sampling_rate" in record:
        _check_number(record, "sampling_rate")
    if not isinstance(record.get("recorded_at"), str | None):
        raise ValueError(f"recorded_at is {excerpt(record['recorded_at'])}, not a date and time")
    items: Any = [{"scores": content}] if kind == "scores" else content
    for item in items:
        is_item = isinstance(item, dict) and (kind == "scores" or item.keys() == set(ITEM_KEYS[kind]))
        if not is_item or not isinstance(item.get("label", ""), str) or not isinstance(item.get("scores", {}), dict):
            raise ValueError(f"{record['file']!r} has {excerpt(item)} among its {kind}")
        for name in item.keys() & NUMBERS.keys():
            _check_number(item, name)
        scores: Record = item.get("scores", {})
        for score in scores.values():
            _check_number({"score": score}, "score")


def _check_number(values: Record, name: str) -> None:
    value = values[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (NUMBERS[name] is int and not isinstance(value, int)):
        raise ValueError(f"{name} is {excerpt(value)}, not a finite number")


def excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def sound_record(record: Record, kind: str) -> Record:
    """The record, or a record with an error if it cannot be stored in all formats."""
    try:
        check_record(record, kind)
        return record
    except ValueError as error:
        return {"file": str(record["file"]), "error": f"the result cannot be stored: {one_line(error)}"}


def check_same_options(path: str, then: Mapping[str, Any], now: Mapping[str, Any], replacing: str = REPLACING) -> None:
    """Raises an [`OptionError`] for the first option that differs from those of the results in `path`."""
    for name in {**now, **then}:
        if then.get(name) != now.get(name):
            before = "not given" if then.get(name) is None else then[name]
            raise OptionError(name, now.get(name), f"{before}, as when {path} was begun; or {replacing}")


def made_by(tagger: "AudioTagger") -> dict[str, str]:
    """The model and engine that make the records, in the form in which they are stored."""
    return {
        "model": tagger.name,
        "weights": tagger.fingerprint,
        "engine": tagger.engine,
        "compute_type": tagger.compute_type,
    }


def check_same_maker(path: str, then: Mapping[str, Any], now: Mapping[str, Any], replacing: str = REPLACING) -> None:
    """Raises a `UsageError` unless the results of both, as in [`made_by`], can be in the same output."""
    if then.get("weights") != now["weights"]:
        model = then.get("model")
        raise UsageError(f"{path} was begun with another model, {model}: resume with that one, or {replacing}")
    names = [name for name in ("engine", "compute_type") if name in now]
    check_same_options(path, {name: then.get(name) for name in names}, {name: now[name] for name in names}, replacing)


# Rows of tables


def columns(kind: str, has_times: bool = False, classes: Iterable[str] = ()) -> tuple[str, ...]:
    """The columns of a table of records."""
    return ("file", "duration_s", *["recorded_at"] * has_times, *CELLS[kind], *classes, "error")


def classes_of(record: Record) -> list[str]:
    """The classes with scores in a record."""
    return list(record["scores"] if "scores" in record else record["windows"][0]["scores"])


def table_columns(records: Iterable[Record], kind: str, has_times: bool) -> tuple[tuple[str, ...], Iterable[Record]]:
    """The columns of a table (with the classes of the first record with scores), and an iterable of all records."""
    first: list[Record] = []
    classes: list[str] = []
    if kind in WIDE:
        records = iter(records)
        for record in records:
            first.append(record)
            if "error" not in record:
                classes = classes_of(record)
                break
    return columns(kind, has_times, classes), chain(first, records)


def classes_in(names: Sequence[str], kind: str) -> list[str]:
    """
    The classes among the columns of a table.

    Raises:
        ValueError: if the columns are not those of records of this kind.
    """
    fixed = columns(kind, "recorded_at" in names[2:3])
    classes = list(names[len(fixed) - 1 : -1]) if kind in WIDE else []
    if tuple(names) != (*fixed[:-1], *classes, "error") or len({*names}) < len(names):
        wanted = ",".join(fixed) if kind not in WIDE else f"{','.join(fixed[:-1])}, classes and error"
        raise ValueError(f"its columns are {excerpt(','.join(names))}, not {wanted}")
    return classes


def column_types(names: Iterable[str], kind: str) -> dict[str, type]:
    """The type of each column: `int`, `float` or `str`."""
    fixed = columns(kind, True)
    return {name: NUMBERS.get(name, str) if name in fixed else float for name in names}


def rows_of(record: Record, kind: str) -> list[dict[str, Any]]:
    """The rows of one record; empty cells are left out."""
    head = {key: record[key] for key in ("file", "duration_s", "recorded_at", "error") if key in record}
    items = [] if "error" in record else record[kind]
    if kind == "tags":
        items = [{"rank": rank, **tag} for rank, tag in enumerate(items, start=1)]
    elif kind == "windows":
        items = [{"start_s": item["start_s"], "end_s": item["end_s"]} | item["scores"] for item in items]
    elif "scores" in record:
        items = [record["scores"]]
    return [head | item for item in items] or [head]


def records_of(rows: Iterable[dict[str, Any]], names: Sequence[str], kind: str) -> Iterator[Record]:
    """Records from rows with these columns and None for empty cells. Rows of an input must be adjacent."""
    classes = classes_in(names, kind)
    empty = dict.fromkeys(names)
    for file, group in groupby(rows, key=lambda row: row["file"]):
        rows_of_file = list(group)
        first = rows_of_file[0]
        record: Record = {"file": file, "error": first["error"]}
        if first["error"] is None:
            record = {name: first[name] for name in ("file", "duration_s", "recorded_at") if name in names}
            if kind in WIDE:
                items = [row | {"scores": {name: row[name] for name in classes}} for row in rows_of_file]
            else:
                items = [row for row in rows_of_file if row["label"] is not None]
            if kind == "scores":
                record[kind] = items[0]["scores"]
            else:
                record[kind] = [{name: item[name] for name in ITEM_KEYS[kind]} for item in items]
        if [empty | row for row in rows_of(record, kind)] != rows_of_file:
            raise ValueError(f"the rows of {file!r} do not belong to one result: was one changed, removed or moved?")
        yield record
