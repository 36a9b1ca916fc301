# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Events of one recording as a Praat TextGrid, with one tier per class, since intervals in a tier may not overlap."""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from ..records import Record
from .fields import label_field, recordings

SHORTEST_S = 1e-5  # Praat refuses empty intervals, which could result from rounding
EMPTY_TIER = "events"  # for a recording without events, since readers expect a tier


def write(records: Iterable[Record], stream: BinaryIO) -> None:
    for record in recordings(records):
        lines = "\n".join(_lines(record))
        stream.write(f"{lines}\n".encode(errors="backslashreplace"))
        stream.flush()


def _lines(record: Record) -> Iterator[str]:
    end_s = max([record["duration_s"], *(event["offset_s"] for event in record["events"])])
    end_s = round(end_s, 6)
    tiers = _tiers(record["events"]) or [(EMPTY_TIER, [])]
    yield from ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {_number(end_s)}"]
    yield from ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, events) in enumerate(tiers, start=1):
        intervals = list(_intervals(events, end_s))
        yield from [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_text(name)}"]
        yield from ["        xmin = 0", f"        xmax = {_number(end_s)}"]
        yield f"        intervals: size = {len(intervals)}"
        for position, (onset_s, offset_s, label) in enumerate(intervals, start=1):
            yield from [f"        intervals [{position}]:", f"            xmin = {_number(onset_s)}"]
            yield from [f"            xmax = {_number(offset_s)}", f"            text = {_text(label)}"]


def _tiers(events: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Names and events of the tiers. A class with overlapping events has several: `Dog`, `Dog (2)`."""
    tiers: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for event in sorted(events, key=lambda event: event["onset_s"]):
        number = 1
        while (tier := tiers.setdefault((event["label"], number), [])) and tier[-1]["offset_s"] > event["onset_s"]:
            number += 1
        tier.append(event)
    return [(f"{label} ({number})" if number > 1 else label, tier) for (label, number), tier in tiers.items()]


def _intervals(events: list[dict[str, Any]], end_s: float) -> Iterator[tuple[float, float, str]]:
    """The intervals of a tier: its events, and the gaps between them, which have no text."""
    start_s = 0.0
    for event in events:
        onset_s, offset_s = round(event["onset_s"], 6), round(event["offset_s"], 6)
        if end_s - offset_s < SHORTEST_S:
            offset_s = end_s
        if onset_s > start_s:
            yield start_s, onset_s, ""
        yield onset_s, offset_s, event["label"]
        start_s = offset_s
    if end_s > start_s or not events:
        yield start_s, end_s, ""


def _number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _text(text: str) -> str:
    escaped = label_field(text).replace('"', '""')
    return f'"{escaped}"'
