# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Output formats of records: a table for people; JSON, JSON lines, CSV and Parquet for programs; and event formats of
annotation programs.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, BinaryIO, NamedTuple

from ..messages import UsageError, one_line
from ..packages import require
from ..records import Record, check_record, sound_record


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    AUDACITY = "audacity"
    RAVEN = "raven"
    DCASE = "dcase"
    RTTM = "rttm"
    TEXTGRID = "textgrid"
    LABELSTUDIO = "labelstudio"


class EventFormat(NamedTuple):
    """A format for events only: the suffix of its files, and whether a file may have several recordings."""

    suffix: str
    combines: bool


EVENT_FORMATS = {
    Format.AUDACITY: EventFormat(".txt", combines=False),
    Format.RAVEN: EventFormat(".selections.txt", combines=True),
    Format.DCASE: EventFormat(".tsv", combines=True),
    Format.RTTM: EventFormat(".rttm", combines=True),
    Format.TEXTGRID: EventFormat(".TextGrid", combines=False),
    Format.LABELSTUDIO: EventFormat(".json", combines=True),
}
FORMATS_OF_SUFFIXES = {
    ".json": (Format.JSON, Format.LABELSTUDIO),
    ".jsonl": (Format.JSONL,),
    ".csv": (Format.CSV,),
    ".parquet": (Format.PARQUET,),
    ".rttm": (Format.RTTM,),
    ".textgrid": (Format.TEXTGRID,),
    ".txt": (Format.TABLE, Format.AUDACITY, Format.RAVEN),
    ".tsv": (Format.DCASE,),
}


def write_records(
    records: Iterable[Record],
    stream: BinaryIO,
    format: Format,
    kind: str = "tags",
    *,
    spreadsheet_safe: bool = False,
    made_by: Mapping[str, str] | None = None,
    has_times: bool = False,
) -> None:
    """
    Writes records one by one.

    Args:
        records: Records of inputs, in their order.
        stream: Binary stream. It is flushed after each record (Parquet: each batch of rows) and not closed.
        format: The format.
        kind: `"tags"`, `"events"`, `"scores"` or `"windows"`.
        spreadsheet_safe: For CSV, put `'` before text that a spreadsheet would run as a formula.
        made_by: For Parquet, Raven and Label Studio, the model, engine and compute type.
        has_times: For CSV and Parquet, whether records have `recorded_at`.
    """
    records = (sound_record(record, kind) for record in records)
    if format is Format.TEXTGRID:
        from . import textgrid

        textgrid.write(records, stream)
    elif format is Format.LABELSTUDIO:
        from . import labelstudio

        labelstudio.write(records, stream, made_by or {})
    elif format in EVENT_FORMATS:
        from . import event_lines

        event_lines.write(records, stream, format, made_by or {})
    elif format is Format.CSV:
        from . import csv

        csv.write(records, stream, kind, spreadsheet_safe, has_times)
    elif format is Format.PARQUET:
        from . import parquet

        parquet.write(records, stream, kind, made_by, has_times)
    elif format is Format.TABLE:
        from . import table

        table.write(records, stream, kind)
    else:
        from .json import write_array, write_lines

        (write_array if format is Format.JSON else write_lines)(records, stream)


def read_records(path: Any, format: Format, kind: str = "tags", spreadsheet_safe: bool = False) -> Iterator[Record]:
    """
    Reads a file written by `write_records` in any format but the table. For Parquet, `path` may be an open file.

    Raises:
        UsageError: if the content differs from what `write_records` would write for these records, such as after
            sorting or editing.
    """
    seen: set[str] = set()
    try:
        for record in _read(path, format, kind, spreadsheet_safe):
            check_record(record, kind)
            if record["file"] in seen:
                raise ValueError(f"the rows of {record['file']!r} are not together: were rows sorted or copied?")
            seen.add(record["file"])
            yield record
    except (ValueError, TypeError, RecursionError, OSError) as error:  # those of pyarrow and json are ValueErrors
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UsageError(
            f"{path} cannot be resumed: its{' spreadsheet-safe' * spreadsheet_safe} {format} results of {kind} are not"
            f" as they were written: {one_line(error)}; use `overwrite=True`, or choose another output"
        ) from error


def _read(path: Any, format: Format, kind: str, spreadsheet_safe: bool) -> Iterator[Record]:
    if format is Format.CSV:
        from . import csv

        return csv.read(path, kind, spreadsheet_safe)
    if format is Format.PARQUET:
        from . import parquet

        return parquet.read(path, kind)
    from .json import read_array, read_lines

    return read_array(path) if format is Format.JSON else read_lines(path)


def check_available(format: Format) -> None:
    """Raises a `MissingPackageError` if the format needs a package that is not installed."""
    if format is Format.PARQUET:
        require(("pyarrow",), "Parquet")
