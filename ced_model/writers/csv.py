# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Records as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from ..records import NUMBERS, Record, columns, excerpt, records_of, rows_of

FORMULA = re.compile("'*[=+\\-@\t\r]")  # how text begins that a spreadsheet would compute, with quotes before it


def write(
    records: Iterable[Record], stream: BinaryIO, events: bool, spreadsheet_safe: bool, has_times: bool = False
) -> None:
    names = columns(events, has_times)
    stream.write(csv_lines([names]))
    stream.flush()
    for record in records:
        rows: Iterable[list[Any]] = ([row.get(column) for column in names] for row in rows_of(record, events))
        if spreadsheet_safe:
            rows = ([quoted_cell(cell) for cell in row] for row in rows)
        stream.write(csv_lines(rows))
        stream.flush()


def quoted_cell(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def csv_lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    minimal = csv.writer(text, lineterminator="\n")
    # Before Python 3.13 a carriage return by itself is not quoted.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in map(list, rows):
        (quoted if any("\r" in cell for cell in row if isinstance(cell, str)) else minimal).writerow(row)
    return text.getvalue().encode(errors="backslashreplace")


def read(path: str, events: bool, spreadsheet_safe: bool) -> Iterator[Record]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            head = next(reader, [])
            names = columns(events, "recorded_at" in head)
            if tuple(head) != names:
                raise ValueError(f"its columns are {excerpt(','.join(head))}, not {','.join(names)}")
            yield from records_of((_parsed_row(reader, row, names, spreadsheet_safe) for row in reader), events)
        except csv.Error as error:
            raise ValueError(str(error)) from error


def _parsed_row(reader: Any, row: list[str], names: tuple[str, ...], spreadsheet_safe: bool) -> dict[str, Any]:
    try:
        return {name: parsed_cell(name, cell, spreadsheet_safe) for name, cell in zip(names, row, strict=True)}
    except ValueError as error:
        reason = error if len(row) == len(names) else f"{len(row)} cells, not {len(names)}"
        raise ValueError(f"line {reader.line_num}: {reason}") from error


def parsed_cell(column: str, cell: str, spreadsheet_safe: bool) -> Any:
    if not cell:
        return None
    if column in NUMBERS:
        return NUMBERS[column](cell)
    if FORMULA.match(cell) and cell.startswith("'") != spreadsheet_safe:
        presence = "no ' before it, so it is not" if spreadsheet_safe else "a ' before it: was it written"
        raise ValueError(f"{excerpt(cell)} has {presence} spreadsheet-safe{'' if spreadsheet_safe else '?'}")
    return cell[1:] if spreadsheet_safe and FORMULA.match(cell) else cell
