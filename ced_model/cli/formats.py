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
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, BinaryIO

from .errors import FAILED, CliError
from .terminal import one_line, printable

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
ITEM_KEYS = {"tags": ("label", "score", "index"), "events": ("onset_s", "offset_s", "label", "peak")}
FORMULA = re.compile("'*[=+\\-@\t\r]")  # how text begins that a spreadsheet would compute, with quotes before it
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


def write_records(
    records: Iterable[Record], stream: BinaryIO, format: Format, events: bool, spreadsheet_safe: bool = False
) -> None:
    """
    Writes records as they come.

    Args:
        records: of inputs in their order.
        stream: where to; it is flushed after each record, and left open.
        format: one of the five.
        events: whether the records hold events instead of tags.
        spreadsheet_safe: for csv, put `'` before text that a spreadsheet would take for a formula.
    """
    records = (sound_record(record, events) for record in records)
    if format is Format.CSV:
        _write_csv(records, stream, events, spreadsheet_safe)
        return
    writers: dict[Format, Callable[[Iterable[Record], BinaryIO, bool], None]] = {
        Format.TABLE: _write_table,
        Format.JSON: _write_json,
        Format.JSONL: _write_jsonl,
        Format.PARQUET: _write_parquet,
    }
    writers[format](map(_finite, records), stream, events)


def read_records(path: Any, format: Format, events: bool, spreadsheet_safe: bool = False) -> Iterator[Record]:
    """
    The records of a file that `write_records` made; of Parquet, an open one will do. A table cannot be read.

    Nothing is left out: a file that holds anything that is not in the records, or in another order, is refused.

    Raises:
        CliError: if the file is not as `write_records` leaves it.
    """
    readers: dict[Format, Callable[[], Iterator[Record]]] = {
        Format.JSON: lambda: _read_json(path),
        Format.JSONL: lambda: _read_jsonl(path),
        Format.CSV: lambda: _read_csv(path, events, spreadsheet_safe),
        Format.PARQUET: lambda: _read_parquet(path, events),
    }
    seen: set[str] = set()
    try:
        for record in readers[format]():
            check_record(record, events)
            if record["file"] in seen:
                raise ValueError(f"{record['file']!r} is there again, after others: were rows sorted or copied?")
            seen.add(record["file"])
            yield record
    except (ValueError, TypeError, RecursionError, csv.Error, OSError) as error:  # pyarrow's and json's are ValueErrors
        if isinstance(error, OSError) and error.errno is not None:
            raise
        kind = f"{format} {'with' if events else 'without'} --events" + " --spreadsheet-safe" * spreadsheet_safe
        raise CliError(
            f"{path} was not made by ced tag --format {kind}, or was changed since, and cannot be resumed:"
            f" {one_line(error)}; choose another --output, or add --overwrite"
        ) from error


def check_record(record: Any, events: bool) -> None:
    """Raises a ValueError unless `record` is one as the module describes them, with finite numbers."""
    key = "events" if events else "tags"
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        raise ValueError(f"{_excerpt(record)} is no record of a file")
    if record.keys() == {"file", "error"} and isinstance(record["error"], str):
        return
    if record.keys() != {"file", "duration_s", key} or not isinstance(record[key], list):
        raise ValueError(f"{record['file']!r} has neither {key} nor an error, or more than that")
    _check_number(record, "duration_s")
    for item in record[key]:
        if not isinstance(item, dict) or item.keys() != set(ITEM_KEYS[key]) or not isinstance(item["label"], str):
            raise ValueError(f"{record['file']!r} has {_excerpt(item)} among its {key}")
        for name in item.keys() - {"label"}:
            _check_number(item, name)


def _check_number(values: Record, name: str) -> None:
    value = values[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (NUMBERS[name] is int and not isinstance(value, int)):
        raise ValueError(f"{name} is {_excerpt(value)}, not a finite number")


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def sound_record(record: Record, events: bool) -> Record:
    """The record, or if it is not one that all formats can hold, one that says why: others are not lost with it."""
    try:
        check_record(record, events)
        return record
    except ValueError as error:
        return {"file": str(record["file"]), "error": f"no result that can be written: {one_line(error)}"}


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
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace") + b"\n"


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


def parse_json(text: str | bytes) -> Any:
    """A JSON value; raises a ValueError for NaN, Infinity, and objects that have a key twice."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("too many brackets in one another") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"{_excerpt(found)} has a key twice")
    return found


def _read_jsonl(path: str) -> Iterator[Record]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error


def _read_json(path: str) -> Iterator[Record]:
    with open(path, "rb") as file:
        records = parse_json(file.read().decode("utf-8-sig"))
    if not isinstance(records, list):
        raise ValueError("no list of records")
    yield from records


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
    """Records from rows in which what is empty is None; the rows of an input stand together, in their order."""
    key = "events" if events else "tags"
    empty = dict.fromkeys(_columns(events))
    for file, group in groupby(rows, key=lambda row: row["file"]):
        rows_of_file = list(group)
        first = rows_of_file[0]
        record: Record = {"file": file, "error": first["error"]}
        if first["error"] is None:
            items = [{name: row[name] for name in ITEM_KEYS[key]} for row in rows_of_file]
            record = {"file": file, "duration_s": first["duration_s"], key: [] if first["label"] is None else items}
        if [empty | row for row in _rows(record, events)] != rows_of_file:
            raise ValueError(f"the rows of {file!r} are not those of one result: was one changed, removed or moved?")
        yield record


# csv


def _write_csv(records: Iterable[Record], stream: BinaryIO, events: bool, spreadsheet_safe: bool) -> None:
    stream.write(_csv_lines([_columns(events)]))
    stream.flush()
    for record in records:
        rows: Iterable[list[Any]] = ([row.get(column) for column in _columns(events)] for row in _rows(record, events))
        if spreadsheet_safe:
            rows = ([_quoted(cell) for cell in row] for row in rows)
        stream.write(_csv_lines(rows))
        stream.flush()


def _quoted(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def _csv_lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    minimal = csv.writer(text, lineterminator="\n")
    # Before Python 3.13 a carriage return by itself is not quoted.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in map(list, rows):
        (quoted if any("\r" in cell for cell in row if isinstance(cell, str)) else minimal).writerow(row)
    return text.getvalue().encode(errors="backslashreplace")


def _read_csv(path: str, events: bool, spreadsheet_safe: bool) -> Iterator[Record]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        columns = _columns(events)
        if tuple(head := next(reader, [])) != columns:
            raise ValueError(f"its columns are {_excerpt(','.join(head))}, not {','.join(columns)}")
        yield from _records((_parsed_row(reader, row, columns, spreadsheet_safe) for row in reader), events)


def _parsed_row(reader: Any, row: list[str], columns: tuple[str, ...], spreadsheet_safe: bool) -> dict[str, Any]:
    try:
        parsed = zip(columns, row, strict=True)
        return {column: _parsed(column, cell, spreadsheet_safe) for column, cell in parsed}
    except ValueError as error:
        reason = error if len(row) == len(columns) else f"{len(row)} cells, not {len(columns)}"
        raise ValueError(f"line {reader.line_num}: {reason}") from error


def _parsed(column: str, cell: str, spreadsheet_safe: bool) -> Any:
    if not cell:
        return None
    if column in NUMBERS:
        return NUMBERS[column](cell)
    if FORMULA.match(cell) and cell.startswith("'") != spreadsheet_safe:
        if spreadsheet_safe:
            raise ValueError(f"{_excerpt(cell)} has no ' before it: leave out --spreadsheet-safe")
        raise ValueError(f"{_excerpt(cell)} has a ' before it: is --spreadsheet-safe missing?")
    return cell[1:] if spreadsheet_safe and FORMULA.match(cell) else cell


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
        if not file.schema_arrow.equals(_schema(events)):
            columns = ", ".join(f"{field.name} {field.type}" for field in file.schema_arrow)
            raise ValueError(f"its columns are {columns}")
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

    lines = [Text(printable(record["file"]), style="bold")]
    if "error" in record:
        lines.append(Text(f"  failed: {printable(record['error'])}", style="red"))
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
    return Text.assemble(f"  {tag['score']:.3f}  ", (bar, "cyan"), f"  {printable(tag['label'])}")


def _event_line(event: Record, duration_s: float) -> "Text":
    from rich.text import Text

    width = len(clock(duration_s))
    onset, offset = clock(event["onset_s"]), clock(event["offset_s"])
    return Text.assemble(f"  {onset:>{width}} – {offset:>{width}}  {event['peak']:.3f}  {printable(event['label'])}")


def clock(seconds: float) -> str:
    """12.3 s, 1:02.3 or 1:02:03.4."""
    minutes, rest = divmod(round(seconds * 10), 600)
    if not minutes:
        return f"{rest / 10:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"
