# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Records as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from ..records import Record, classes_in, column_types, excerpt, records_of, rows_of, table_columns

FORMULA = re.compile("'*[=+\\-@\t\r]")  # start of a spreadsheet formula, after any number of quotes


def write(
    records: Iterable[Record], stream: BinaryIO, kind: str, spreadsheet_safe: bool, has_times: bool = False
) -> None:
    names, records = table_columns(records, kind, has_times)
    stream.write(_lines([map(_quoted, names) if spreadsheet_safe else names]))
    stream.flush()
    for record in records:
        rows = [[row.get(column) for column in names] for row in rows_of(record, kind)]
        stream.write(_lines([map(_quoted, row) for row in rows] if spreadsheet_safe else rows))
        stream.flush()


def _quoted(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    minimal = csv.writer(text, lineterminator="\n")
    # Python before 3.13 does not quote a single carriage return.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in map(list, rows):
        (quoted if any("\r" in cell for cell in row if isinstance(cell, str)) else minimal).writerow(row)
    return text.getvalue().encode(errors="backslashreplace")


def read(path: str, kind: str, spreadsheet_safe: bool) -> Iterator[Record]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = [_parsed(str, cell, spreadsheet_safe) or "" for cell in next(reader, [])]
            classes_in(names, kind)
            types = column_types(names, kind)
            yield from records_of((_parsed_row(reader, row, types, spreadsheet_safe) for row in reader), names, kind)
        except csv.Error as error:
            raise ValueError(str(error)) from error


def _parsed_row(reader: Any, row: list[str], types: dict[str, type], spreadsheet_safe: bool) -> dict[str, Any]:
    try:
        pairs = zip(types.items(), row, strict=True)
        return {name: _parsed(type_, cell, spreadsheet_safe) for (name, type_), cell in pairs}
    except ValueError as error:
        reason = error if len(row) == len(types) else f"{len(row)} cells, not {len(types)}"
        raise ValueError(f"line {reader.line_num}: {reason}") from error


def _parsed(type_: type, cell: str, spreadsheet_safe: bool) -> Any:
    if not cell:
        return None
    if type_ is not str:
        return type_(cell)
    if FORMULA.match(cell) and cell.startswith("'") != spreadsheet_safe:
        presence = "no ' before it, so it is not" if spreadsheet_safe else "a ' before it: was it written"
        raise ValueError(f"{excerpt(cell)} has {presence} spreadsheet-safe{'' if spreadsheet_safe else '?'}")
    return cell[1:] if spreadsheet_safe and FORMULA.match(cell) else cell
