# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of `ced tag` → results of the library, without failed inputs."""

import os
from collections.abc import Iterator

import numpy as np

from ..events import Event
from ..messages import OptionError, UsageError
from ..records import Record
from ..results import Timeline
from . import Format, read_records

READABLE = (Format.CSV, Format.JSON, Format.JSONL, Format.PARQUET)


def read_events(path: str | os.PathLike[str]) -> dict[str, list[Event]]:
    """
    Events by recording, from a file of `ced tag --events` (CSV, JSON, JSON lines or Parquet).

    Raises:
        ValueError: if it is another file. The message is one line.
    """
    records = _records(path, "events")
    return {record["file"]: [Event(**event) for event in record["events"]] for record in records}


def read_timelines(path: str | os.PathLike[str]) -> dict[str, Timeline]:
    """
    Timelines by recording, from a file of `ced tag --timeline` (CSV, JSON, JSON lines or Parquet).

    Raises:
        ValueError: if it is another file. The message is one line.
    """
    found = {}
    for record in _records(path, "windows"):
        windows = record["windows"]
        start_s, end_s = (np.array([window[name] for window in windows]) for name in ("start_s", "end_s"))
        scores = np.array([list(window["scores"].values()) for window in windows], np.float32)
        found[record["file"]] = Timeline(scores, start_s, end_s, list(windows[0]["scores"]), record["duration_s"])
    return found


def _records(path: str | os.PathLike[str], kind: str) -> Iterator[Record]:
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower().removeprefix(".")
    if suffix not in READABLE:
        raise OptionError("path", path, f"a name that ends in {', '.join(f'.{each}' for each in READABLE)}")
    records = read_records(path, Format(suffix), kind)
    try:
        yield from (record for record in records if "error" not in record)
    except UsageError as error:
        option = "--events" if kind == "events" else "--timeline"
        raise UsageError(f"{path} is not an unchanged file of `ced tag {option}`") from error
