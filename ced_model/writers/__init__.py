# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Records in files: a table to read; JSON, JSON lines, CSV and Parquet for programs; events in the formats of programs
that show and edit them. One file for each format.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from importlib import import_module
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
    """A format that holds events only: the end of its files' names, and whether a file may hold several recordings."""

    suffix: str
    combines: bool


WIDE_KEYS = {"clips": "scores", "windows": "windows"}  # which records have instead of tags
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
    events: bool,
    *,
    spreadsheet_safe: bool = False,
    made_by: Mapping[str, str] | None = None,
    wide: str = "",
    has_times: bool = False,
) -> None:
    """
    Writes records as they come.

    Args:
        records: Records of inputs, in their order.
        stream: Flushed after each record (Parquet: each batch of rows), and left open.
        format: The format.
        events: Whether the records hold events instead of tags.
        spreadsheet_safe: For CSV, put `'` before text that a spreadsheet would take for a formula.
        made_by: For Parquet, Raven and Label Studio, the model, engine and compute type.
        has_times: For CSV of tags or events, whether records have `recorded_at`: the header comes before the first one.
        wide: `"clips"` or `"windows"` if the records hold scores of all classes, of clips or of their windows.
    """
    records = (sound_record(record, events) for record in records)
    if format in EVENT_FORMATS:
        import_module(f".{format}", __name__).write(records, stream, made_by or {})
    elif wide and format in (Format.CSV, Format.PARQUET):
        from . import wide as tables

        if format is Format.CSV:
            tables.write_csv(records, stream, wide, spreadsheet_safe)
        else:
            tables.write_parquet(records, stream, wide, made_by)
    elif format is Format.CSV:
        from . import csv

        csv.write(records, stream, events, spreadsheet_safe, has_times)
    elif format is Format.PARQUET:
        from . import parquet

        parquet.write(records, stream, events, made_by)
    elif format is Format.TABLE:
        from . import table

        table.write(records, stream, events)
    else:
        from .json import write_array, write_lines

        (write_array if format is Format.JSON else write_lines)(records, stream)


def read_records(
    path: Any, format: Format, events: bool, spreadsheet_safe: bool = False, wide: str = ""
) -> Iterator[Record]:
    """
    The records of a file that `write_records` made; of Parquet, `path` may be an open file. A table cannot be read.

    Nothing is left out: a file that holds anything that is not in the records, or in another order, is refused.

    Raises:
        UsageError: if the file is not as `write_records` leaves it.
    """
    seen: set[str] = set()
    key = "events" if events else "tags"
    try:
        for record in _read(path, format, events, spreadsheet_safe, wide):
            check_record(record, events)
            if "error" not in record and WIDE_KEYS.get(wide, key) not in record:
                raise ValueError(f"{record['file']!r} has {', '.join(record)}")
            if record["file"] in seen:
                raise ValueError(f"{record['file']!r} is there again, after others: were rows sorted or copied?")
            seen.add(record["file"])
            yield record
    except (ValueError, TypeError, RecursionError, OSError) as error:  # pyarrow's and json's are ValueErrors
        if isinstance(error, OSError) and error.errno is not None:
            raise
        kind = f"{format} results of {f'scores of {wide}' if wide else key}{', spreadsheet-safe' * spreadsheet_safe}"
        raise UsageError(
            f"{path} does not hold {kind} as they were written, and cannot be resumed: {one_line(error)}; overwrite it,"
            " or choose another output"
        ) from error


def _read(path: Any, format: Format, events: bool, spreadsheet_safe: bool, wide: str) -> Iterator[Record]:
    if wide and format in (Format.CSV, Format.PARQUET):
        from .wide import read_csv, read_parquet

        return read_csv(path, wide, spreadsheet_safe) if format is Format.CSV else read_parquet(path, wide)
    if format is Format.CSV:
        from . import csv

        return csv.read(path, events, spreadsheet_safe)
    if format is Format.PARQUET:
        from . import parquet

        return parquet.read(path, events)
    from .json import read_array, read_lines

    return read_array(path) if format is Format.JSON else read_lines(path)


def check_available(format: Format) -> None:
    """Raises a `MissingPackageError` if the format needs a package that is not installed."""
    if format is Format.PARQUET:
        require(("pyarrow",), "Parquet", 'pip install "ced_model[parquet]"')
