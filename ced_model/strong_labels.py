# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Strong labels: classes in recordings with onsets and offsets.

A table (TSV, or CSV with commas or semicolons) has the columns `filename`, `onset`, `offset` and `event_label` of the
DCASE challenges, with times in seconds; without a header, they are expected in this order. Other names, such as those
of `ced tag --events` (`file`, `onset_s`, `label`), are accepted, too; further columns are ignored. A line with only a
file name is a recording without events. JSON, JSON lines and Parquet have the format of `ced tag --events`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .audio import AudioError, duration_s, read_audio
from .class_files import text_rows
from .classes import FileText, Vocabulary, fold
from .events import Event
from .input_list import escape_name, existing, unescape_name
from .labelled import MULTI_LABEL, LabelledClips
from .labelled.class_names import describe_unknown
from .labelled.clips import MISSING
from .messages import UsageError, one_line, printable
from .output import write_file
from .writers.fields import OPENING_QUOTE, label_field, name_field
from .writers.read_back import READABLE, read_events

COLUMNS = {
    "filename": ("filename", "file", "file_name", "path", "segment_id"),
    "onset": ("onset", "onset_s", "event_onset", "start", "start_s", "start_time", "start_time_seconds"),
    "offset": ("offset", "offset_s", "event_offset", "end", "end_s", "end_time", "end_time_seconds"),
    "event_label": ("event_label", "label", "event", "class"),
}
EXPECTED = "filename, onset, offset and event_label"
TOLERANCE_S = 0.1  # by which an offset may exceed the end of the audio, since many labels are rounded
CHECK_THREADS = 8


class StrongEvent(NamedTuple):
    """An event with onset and offset in seconds from the recording's start. The label has its place in the file."""

    onset_s: float
    offset_s: float
    label: FileText


@dataclass(frozen=True)
class Recording:
    """
    A recording with strong labels.

    Attributes:
        name: Its name in the labels.
        path: Path of the audio.
        duration_s: Length of the audio in seconds.
        events: Its events, ordered by onset.
    """

    name: str
    path: str
    duration_s: float
    events: list[StrongEvent]


class Problems:
    """Collects problems of a file of labels, line by line."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, place: str, reason: str) -> None:
        self.found.append((place, reason))

    def refuse(self) -> None:
        """Raises a UsageError if there are problems, with the first one and the lines of the others."""
        if not self.found:
            return
        (place, reason), others = self.found[0], self.found[1:]
        lines = list(dict.fromkeys(where.rpartition("line ")[2] for where, _ in others))
        shown = ", ".join(lines[:10]) + (", …" if len(lines) > 10 else "")
        raise UsageError(f"{place}: {reason}" + (f"; {len(others)} more: line {shown}" if others else ""))


def read_event_file(path: str | os.PathLike[str], *, is_reference: bool = True) -> dict[str, list[StrongEvent]]:
    """
    Reads events by the names of their recordings, ordered by onset.

    Args:
        path: A file in one of the formats described above.
        is_reference: Whether these are reference labels, in which events of the same class must not overlap.

    Raises:
        UsageError: for an invalid line, with its number.
        OSError: if the file cannot be read.
    """
    path = existing(path)
    suffix = os.path.splitext(path)[1].lower().removeprefix(".")
    if suffix in READABLE and suffix != "csv":
        found = {name: [_of_event(event, path) for event in events] for name, events in read_events(path).items()}
    else:
        found = _read_table(path)
    if not any(found.values()) and is_reference:
        raise UsageError(f"{printable(path)}: there are no events: expected {EXPECTED} in each line")
    if is_reference:
        _check_overlaps(found)
    return {unescape_name(name): sorted(events) for name, events in found.items()}


def _of_event(event: Event, path: str) -> StrongEvent:
    return StrongEvent(event.onset_s, event.offset_s, FileText.at(event.label, printable(path)))


def _read_table(path: str) -> dict[str, list[StrongEvent]]:
    with open(path, "rb") as file:
        first = file.readline()
    delimiter = next((sign for sign in "\t;" if sign.encode() in first), ",")
    rows = text_rows(path, delimiter)
    found: dict[str, list[StrongEvent]] = {}
    problems = Problems()
    head: list[str] = []
    places = dict(zip(COLUMNS, range(4), strict=True))
    for number, (place, row) in enumerate(rows):
        cells = [cell.strip() for cell in row]
        if number == 0 and (named := _named_columns(cells)):
            if missing := [name for name in COLUMNS if name not in named]:
                raise UsageError(f"{place}: expected the columns {EXPECTED}; there is no {missing[0]}")
            for column, index in named.items():
                if [cell.casefold() for cell in cells].count(cells[index].casefold()) > 1:
                    raise UsageError(f"{place}: expected one column {column}, found several named {cells[index]!r}")
            head, places = cells, named
            continue
        width = len(head) or 4
        if len(cells) != width and not (len(cells) == 1 and places["filename"] == 0):
            separator = {"\t": "tabs", ";": "semicolons"}.get(delimiter, "commas")
            why = " as in the header" if head else f" ({EXPECTED})"
            problems.add(place, f"expected {width} cells{why}, separated by {separator}, found {len(cells)}")
            continue
        cells += [""] * (width - len(cells))
        if head and "error" in head and cells[head.index("error")]:
            continue  # a recording that `ced tag` could not read
        name, onset, offset, label = (cells[places[column]] for column in COLUMNS)
        if not name:
            problems.add(place, "the file name is missing")
        elif not (onset or offset or label):
            found.setdefault(name, [])
        else:
            try:
                found.setdefault(name, []).append(_event(onset, offset, label, place))
            except ValueError as error:
                problems.add(place, str(error))
    problems.refuse()
    return found


def _named_columns(cells: Sequence[str]) -> dict[str, int]:
    """The indices of the columns, if these cells are a header."""
    known = [cell.casefold() for cell in cells]
    found = {
        column: known.index(name) for column, names in COLUMNS.items() for name in reversed(names) if name in known
    }
    return found if {"onset", "offset"} & found.keys() else {}


def _event(onset: str, offset: str, label: str, place: str) -> StrongEvent:
    onset_s, offset_s = _seconds("onset", onset), _seconds("offset", offset)
    if not label:
        raise ValueError("the class is missing")
    if onset_s < 0:
        raise ValueError(f"the onset {onset} is negative")
    if onset_s >= offset_s:
        raise ValueError(f"the onset {onset} is not before the offset {offset}")
    return StrongEvent(onset_s, offset_s, FileText.at(label, place))


def _seconds(name: str, text: str) -> float:
    with suppress(ValueError):
        if np.isfinite(value := float(text)) and "_" not in text:
            return value
    shown = printable(repr(text))[:60]
    hint = ": write a point, not a comma" if text.replace(",", "", 1).isdecimal() and "," in text else ""
    raise ValueError(f"the {name} {shown} is not a number of seconds{hint}" if text else f"the {name} is missing")


def _check_overlaps(found: Mapping[str, list[StrongEvent]]) -> None:
    problems = Problems()
    for events in found.values():
        last: dict[str, StrongEvent] = {}  # by class, the event that ends last
        for event in sorted(events, key=lambda event: event[:2]):
            before = last.get(fold(event.label))
            if before is not None and event.onset_s < before.offset_s:
                first, second = sorted((before.label.place, event.label.place), key=lambda place: (len(place), place))
                line = first.rpartition("line ")[2]
                same = event[:2] == before[:2]
                is_there = "appears twice" if same else "overlaps another event of the class: merge them"
                problems.add(second, f"{printable(event.label)!r} from {event.onset_s:g} s {is_there} (line {line})")
            if before is None or event.offset_s > before.offset_s:
                last[fold(event.label)] = event
    problems.refuse()


def read_strong_labels(
    path: str | os.PathLike[str], audio_root: str | os.PathLike[str] | None = None
) -> list[Recording]:
    """
    Reads strong labels and checks that they fit their audio.

    Args:
        path: A file in one of the formats described above.
        audio_root: Folder of relative paths, by default that of the file, then the current one.

    Raises:
        UsageError: with the number of the line, for an audio file that is missing or cannot be read, an offset more
            than 0.1 s after its end, and errors of [`read_event_file`].
        OSError: if the file of labels cannot be read.
    """
    path = existing(path)
    by_name = read_event_file(path)
    roots = [os.path.expanduser(audio_root)] if audio_root is not None else [os.path.dirname(path), ""]
    paths = [_located(name, roots) for name in by_name]
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        lengths = list(pool.map(_length_s, paths))
    problems, recordings = Problems(), []
    for (name, events), audio, length in zip(by_name.items(), paths, lengths, strict=True):
        place = min(
            (event.label.place for event in events), key=lambda each: (len(each), each), default=printable(path)
        )
        if isinstance(length, str):
            problems.add(place, f"{printable(audio)}: {length}")
            continue
        for event in events:
            if event.offset_s > length + TOLERANCE_S:
                end = f"the end of {printable(name)}, {length:.4g} s"
                problems.add(event.label.place, f"the offset {event.offset_s:g} is after {end}")
        recordings.append(Recording(name, audio, length, events))
    problems.refuse()
    return recordings


def _located(name: str, roots: Sequence[str | os.PathLike[str]]) -> str:
    candidates = [os.path.join(root, os.path.expanduser(name)) for root in roots]
    return next(filter(os.path.exists, candidates), candidates[0])


def _length_s(path: str) -> float | str:
    """The length of a file in seconds, or why it cannot be read."""
    if not os.path.exists(path):
        return MISSING
    length_s = duration_s(path) if os.path.isfile(path) else None
    if length_s is not None:
        return length_s
    try:
        return len(read_audio(path)) / 16000
    except (AudioError, OSError) as error:
        return one_line(error).removeprefix(f"{printable(path)}: ")


# For training


@dataclass(frozen=True, eq=False)
class StrongClips(LabelledClips):
    """
    Recordings with events for training. Targets are those of the complete recordings.

    Attributes:
        events: For each recording, a list of `(onset_s, offset_s, class index)`.
    """

    events: list[list[tuple[float, float, int]]] = field(default_factory=list, repr=False)

    def select(self, indices: "Iterator[int] | Sequence[int]") -> "StrongClips":  # type: ignore[override]
        kept = list(indices)
        selected: StrongClips = super().select(kept)  # type: ignore[assignment]
        return replace(selected, events=[self.events[index] for index in kept])


def strong_clips(
    recordings: Sequence[Recording],
    *,
    labels: Sequence[str] | None = None,
    model_labels: Sequence[str] = (),
) -> StrongClips:
    """
    Converts recordings to clips for training.

    Args:
        recordings: Recordings from [`read_strong_labels`].
        labels: The classes, by default those that occur, in alphabetical order.
        model_labels: The classes of the model, whose spelling is used for equal names.

    Raises:
        UsageError: for a class that is not in `labels`, with its line.
    """
    vocabulary = Vocabulary(list(model_labels))

    def named(label: str) -> str:
        index = vocabulary.find(label)
        return str(label) if index is None else model_labels[index]

    if labels is None:
        by_fold = {fold(name): name for each in recordings for event in each.events for name in [named(event.label)]}
        labels = sorted(by_fold.values())
    known = Vocabulary(labels)
    problems = Problems()
    events: list[list[tuple[float, float, int]]] = []
    targets = np.zeros((len(recordings), len(labels)), np.float32)
    for row, recording in enumerate(recordings):
        events.append([])
        for event in recording.events:
            index = known.find(named(event.label))
            if index is None:
                problems.add(event.label.place, describe_unknown([str(event.label)], labels))
                continue
            events[-1].append((event.onset_s, event.offset_s, index))
            targets[row, index] = 1
    problems.refuse()
    return StrongClips([each.path for each in recordings], targets, list(labels), MULTI_LABEL, events=events)


def write_strong_clips(path: Path, clips: StrongClips) -> None:
    """Writes clips as a table of strong labels."""
    lines = ["filename\tonset\toffset\tevent_label"]
    for file, events in zip(clips.paths, clips.events, strict=True):
        name = name_field(escape_name(os.path.abspath(file)), OPENING_QUOTE)
        rows = [
            f"{onset!r}\t{offset!r}\t{label_field(clips.labels[index], OPENING_QUOTE)}"
            for onset, offset, index in events
        ]
        lines += [f"{name}\t{row}" for row in rows or ["\t\t"]]
    write_file(path, ("\n".join(lines) + "\n").encode(errors="backslashreplace"))
