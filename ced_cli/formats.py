# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Results in five formats: a table for the eye; json, jsonl, csv and parquet for programs.

A record is what json and jsonl hold for one input: `{"file", "duration_s", "tags": [{"label", "score", "index"}]}`,
with `--events` `{"file", "duration_s", "events": [{"onset_s", "offset_s", "label", "peak"}]}`, and
`{"file", "error"}` where the input could not be read. In csv and parquet each tag or event is a row; an input without
any is a row with its file and duration, a failed one a row with its file and error.
"""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import FAILED, CliError

if TYPE_CHECKING:
    import pyarrow
    from rich.console import Console
    from rich.text import Text

Record = dict[str, Any]

TAG_COLUMNS = ("file", "duration_s", "rank", "label", "index", "score", "error")
EVENT_COLUMNS = ("file", "duration_s", "onset_s", "offset_s", "label", "peak", "error")
NUMBERS: dict[str, type] = {"rank": int, "index": int} | dict.fromkeys(
    ("duration_s", "score", "onset_s", "offset_s", "peak"), float
)
BATCH_ROWS = 2**16
BAR_WIDTH = 20


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class Average(StrEnum):
    MEAN = "mean"
    MAX = "max"


class Engine(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def write_records(records: Iterable[Record], stream: BinaryIO, format: Format, events: bool) -> None:
    """
    Writes records as they come.

    Args:
        records: of inputs in their order.
        stream: where to; it is flushed after each record, and left open.
        format: one of the five.
        events: whether the records hold events instead of tags.
    """
    writers: dict[Format, Callable[[Iterable[Record], BinaryIO, bool], None]] = {
        Format.TABLE: _write_table,
        Format.JSON: _write_json,
        Format.JSONL: _write_jsonl,
        Format.CSV: _write_csv,
        Format.PARQUET: _write_parquet,
    }
    writers[format](map(_finite, records), stream, events)


def read_records(path: Any, format: Format, events: bool) -> Iterator[Record]:
    """
    The records of a file that `write_records` made; of Parquet, an open one will do. A table cannot be read.

    Raises:
        CliError: if it holds something else.
    """
    readers: dict[Format, Callable[[str, bool], Iterator[Record]]] = {
        Format.JSON: _read_json,
        Format.JSONL: _read_jsonl,
        Format.CSV: _read_csv,
        Format.PARQUET: _read_parquet,
    }
    try:
        for record in readers[format](path, events):
            if not isinstance(record["file"], str) or not ({"error", "events" if events else "tags"} & record.keys()):
                raise KeyError("file")
            yield record
    except (ValueError, KeyError, TypeError, csv.Error) as error:  # pyarrow's and json's are ValueErrors
        kind = "with --events" if events else "without --events"
        raise CliError(f"{path} was not made by ced tag --format {format} {kind}: it cannot be resumed") from error


def _finite(record: Record) -> Record:
    """The record, or one with an error if it has numbers that are NaN or infinite, which no format can hold."""
    numbers = [value for item in (record, *_items(record)) for value in item.values() if isinstance(value, float)]
    return record if all(map(math.isfinite, numbers)) else {"file": record["file"], "error": "scores are no numbers"}


def _items(record: Record) -> list[Record]:
    return record.get("tags", []) + record.get("events", [])


def check_available(format: Format) -> None:
    """Raises `CliError` if the format needs a library that is not installed."""
    if format is Format.PARQUET:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise CliError('--format parquet needs pyarrow: pip install "ced_model[parquet]"', FAILED) from error


# json


def json_line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _write_jsonl(records: Iterable[Record], stream: BinaryIO, events: bool) -> None:
    for record in records:
        stream.write(json_line(record))
        stream.flush()


def _write_json(records: Iterable[Record], stream: BinaryIO, events: bool) -> None:
    separator = b"[\n"
    try:
        for record in records:
            stream.write(separator + json_line(record))
            stream.flush()
            separator = b","  # before the next record: on a terminal, errors come between whole lines
    finally:  # an interrupted run leaves a whole array, too
        stream.write(b"[]\n" if separator == b"[\n" else b"]\n")
        stream.flush()


def _read_jsonl(path: str, events: bool) -> Iterator[Record]:
    with open(path, "rb") as file:
        yield from map(json.loads, file)


def _read_json(path: str, events: bool) -> Iterator[Record]:
    with open(path, "rb") as file:
        yield from json.load(file)


# Rows


def _columns(events: bool) -> tuple[str, ...]:
    return EVENT_COLUMNS if events else TAG_COLUMNS


def _rows(record: Record, events: bool) -> list[dict[str, Any]]:
    """The rows of one record; what is not in them is empty."""
    head = {key: record[key] for key in ("file", "duration_s", "error") if key in record}
    if events:
        items = record.get("events", [])
    else:
        items = [{"rank": rank, **tag} for rank, tag in enumerate(record.get("tags", []), start=1)]
    return [head | item for item in items] or [head]


def _records(rows: Iterable[dict[str, Any]], events: bool) -> Iterator[Record]:
    """Records from rows in which what is empty is None; the rows of an input stand together."""
    for file, group in groupby(rows, key=lambda row: row["file"]):
        first, *others = group
        if first["error"] is not None:
            yield {"file": file, "error": first["error"]}
        elif events:
            items = [_pick(row, "onset_s", "offset_s", "label", "peak") for row in [first, *others]]
            yield {"file": file, "duration_s": first["duration_s"], "events": [] if first["label"] is None else items}
        else:
            items = [_pick(row, "label", "score", "index") for row in [first, *others]]
            yield {"file": file, "duration_s": first["duration_s"], "tags": [] if first["label"] is None else items}


def _pick(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: row[key] for key in keys}


# csv


def _write_csv(records: Iterable[Record], stream: BinaryIO, events: bool) -> None:
    stream.write(_csv_lines([_columns(events)]))
    stream.flush()
    for record in records:
        rows = _rows(record, events)
        stream.write(_csv_lines([row.get(column) for column in _columns(events)] for row in rows))
        stream.flush()


def _csv_lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    minimal = csv.writer(text, lineterminator="\n")
    # Before Python 3.13 a carriage return by itself is not quoted.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in map(list, rows):
        (quoted if any("\r" in cell for cell in row if isinstance(cell, str)) else minimal).writerow(row)
    return text.getvalue().encode()


def _read_csv(path: str, events: bool) -> Iterator[Record]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != _columns(events):
            raise ValueError("other columns")
        yield from _records(({key: _parsed(key, cell) for key, cell in row.items()} for row in reader), events)


def _parsed(column: str, cell: str) -> Any:
    return NUMBERS.get(column, str)(cell) if cell else None


# parquet


def _schema(events: bool) -> "pyarrow.Schema":
    import pyarrow

    types = {int: pyarrow.int32(), float: pyarrow.float64(), str: pyarrow.string()}
    return pyarrow.schema([(column, types[NUMBERS.get(column, str)]) for column in _columns(events)])


def _write_parquet(records: Iterable[Record], stream: BinaryIO, events: bool) -> None:
    import pyarrow
    from pyarrow import parquet

    schema = _schema(events)
    rows = (row for record in records for row in _rows(record, events))
    with parquet.ParquetWriter(stream, schema) as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def _read_parquet(path: Any, events: bool) -> Iterator[Record]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        if tuple(file.schema_arrow.names) != _columns(events):
            raise ValueError("other columns")
        yield from _records((row for batch in file.iter_batches() for row in batch.to_pylist()), events)


# table


def _write_table(records: Iterable[Record], stream: BinaryIO, events: bool) -> None:
    from rich.console import Console

    encoding = sys.stdout.encoding if stream is getattr(sys.stdout, "buffer", None) else "utf-8"
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", write_through=True)
    try:
        console = Console(file=text, highlight=False)
        for index, record in enumerate(records):
            if index:
                console.print()
            _print_record(console, record, events)
            stream.flush()
    finally:
        text.detach()  # else it would close the stream


def _print_record(console: "Console", record: Record, events: bool) -> None:
    from rich.text import Text

    from ced_model.audio import describe

    lines = [Text(describe(record["file"]), style="bold")]
    if "error" in record:
        lines.append(Text(f"  failed: {record['error']}", style="red"))
    else:
        lines[0].append(f"  {clock(record['duration_s'])}", style="not bold dim")
        if events:
            lines += [_event_line(event, record["duration_s"]) for event in record["events"]]
        else:
            lines += [_tag_line(tag) for tag in record["tags"]]
        if len(lines) == 1:
            lines.append(Text("  nothing above the threshold", style="dim"))
    for line in lines:
        console.print(line, soft_wrap=True)  # names are never cut


def _tag_line(tag: Record) -> "Text":
    from rich.text import Text

    filled = round(min(max(tag["score"], 0.0), 1.0) * BAR_WIDTH)
    bar = "━" * filled + " " * (BAR_WIDTH - filled)
    return Text.assemble(f"  {tag['score']:.3f}  ", (bar, "cyan"), f"  {tag['label']}")


def _event_line(event: Record, duration_s: float) -> "Text":
    from rich.text import Text

    width = len(clock(duration_s))
    onset, offset = clock(event["onset_s"]), clock(event["offset_s"])
    return Text.assemble(f"  {onset:>{width}} – {offset:>{width}}  {event['peak']:.3f}  {event['label']}")


def clock(seconds: float) -> str:
    """12.3 s, 1:02.3 or 1:02:03.4."""
    minutes, rest = divmod(round(seconds * 10), 600)
    if not minutes:
        return f"{rest / 10:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"
