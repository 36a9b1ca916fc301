# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Records as a table for people, in colour on a terminal."""

import io
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import BinaryIO

from rich.console import Console
from rich.text import Text

from ..messages import clock, printable
from ..records import Record

BAR_WIDTH = 20
TOP_K = 3  # classes of a window


def write(records: Iterable[Record], stream: BinaryIO, kind: str) -> None:
    encoding = sys.stdout.encoding if stream is getattr(sys.stdout, "buffer", None) else "utf-8"
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", write_through=True)
    try:
        console = Console(file=text, highlight=False)
        for index, record in enumerate(records):
            if index:
                console.print()
            _print_record(console, record, kind)
            stream.flush()
    finally:
        text.detach()  # prevents it from closing the stream


def _print_record(console: Console, record: Record, kind: str) -> None:
    lines = [Text(printable(record["file"]), style="bold")]
    if "error" in record:
        lines.append(Text(f"  failed: {printable(record['error'])}", style="red"))
    else:
        lines[0].append(f"  {clock(record['duration_s'])}", style="not bold dim")
        if record.get("recorded_at"):
            lines[0].append(f"  {record['recorded_at'].replace('T', ' ')}", style="not bold dim")
        if kind == "windows":
            lines += [_window_line(window, record["duration_s"]) for window in record["windows"]]
        elif kind == "events":
            lines += [_event_line(event, record) for event in record["events"]]
        else:
            lines += [_tag_line(tag) for tag in record["tags"]]
        if len(lines) == 1:
            lines.append(Text("  nothing above the threshold", style="dim"))
    for line in lines:
        console.print(line, soft_wrap=True)  # names are never cut


def _tag_line(tag: Record) -> Text:
    filled = round(min(max(tag["score"], 0.0), 1.0) * BAR_WIDTH)
    bar = "━" * filled + " " * (BAR_WIDTH - filled)
    return Text.assemble(f"  {tag['score']:.3f}  ", (bar, "cyan"), f"  {printable(tag['label'])}")


def _window_line(window: Record, duration_s: float) -> Text:
    width = len(clock(duration_s))
    start, end = clock(window["start_s"]), clock(window["end_s"])
    best = sorted(window["scores"].items(), key=lambda score: -score[1])[:TOP_K]
    tags = ", ".join(f"{printable(label)} {score:.2f}" for label, score in best)
    return Text(f"  {start:>{width}} – {end:>{width}}  {tags}")


def _event_line(event: Record, record: Record) -> Text:
    width = len(clock(record["duration_s"]))
    onset, offset = clock(event["onset_s"]), clock(event["offset_s"])
    if record.get("recorded_at"):
        began = datetime.fromisoformat(record["recorded_at"])
        with suppress(OverflowError):  # year above 9999, from a damaged header
            times = [began + timedelta(seconds=event[name]) for name in ("onset_s", "offset_s")]
            onset, offset = (_time_of_day(time, began) for time in times)
    return Text.assemble(f"  {onset:>{width}} – {offset:>{width}}  {event['peak']:.3f}  {printable(event['label'])}")


def _time_of_day(time: datetime, began: datetime) -> str:
    """The time of day, with the date if it is not the day on which the recording began."""
    day = f"{time:%Y-%m-%d} " if time.date() != began.date() else ""
    return f"{day}{time:%H:%M:%S}.{time.microsecond // 100_000}"
