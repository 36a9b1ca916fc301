# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Tables with a column for each class: a row for each clip, or for each window of a timeline.

Records of these have `scores` (`{class: score}`), or `windows` (`[{"start_s", "end_s", "scores"}]`), in place of tags.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain, groupby, islice
from typing import Any, BinaryIO

from ..records import Record, excerpt
from .csv import csv_lines, parsed_cell, quoted_cell

BATCH_ROWS = 2**12
TEXTS = ("file", "recorded_at", "error")  # columns that are no numbers
KEY = {"clips": ("file", "duration_s"), "windows": ("file", "duration_s", "start_s", "end_s")}


def write_csv(records: Iterable[Record], stream: BinaryIO, wide: str, spreadsheet_safe: bool) -> None:
    columns, records = _columns(records, wide)
    stream.write(csv_lines([map(quoted_cell, columns) if spreadsheet_safe else columns]))
    for record in records:
        rows = [[row.get(column) for column in columns] for row in rows_of(record, wide)]
        stream.write(csv_lines([quoted_cell(cell) for cell in row] if spreadsheet_safe else row for row in rows))
        stream.flush()


def write_parquet(records: Iterable[Record], stream: BinaryIO, wide: str, made_by: Mapping[str, str] | None) -> None:
    import pyarrow
    from pyarrow import parquet

    columns, records = _columns(records, wide)
    types = dict.fromkeys(TEXTS, pyarrow.string())
    metadata = {"ced": json.dumps(made_by)} if made_by else None
    schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in columns], metadata)
    rows = (row for record in records for row in rows_of(record, wide))
    with parquet.ParquetWriter(stream, schema) as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def _columns(records: Iterable[Record], wide: str) -> tuple[list[str], Iterator[Record]]:
    """The columns, from the first record that has classes, and all records."""
    records = iter(records)
    first: list[Record] = []
    classes: list[str] = []
    for record in records:
        first.append(record)
        if "error" not in record:
            classes = classes_of(record)
            break
    times = ["recorded_at"] if first and "recorded_at" in first[-1] else []
    return [*_key(wide, times), *classes, "error"], chain(first, records)


def _key(wide: str, times: list[str]) -> list[str]:
    return [*KEY[wide][:2], *times, *KEY[wide][2:]]


def classes_of(record: Record) -> list[str]:
    return list(record["scores"] if "scores" in record else record["windows"][0]["scores"])


def rows_of(record: Record, wide: str) -> list[dict[str, Any]]:
    if "error" in record:
        return [record]
    head = {name: record[name] for name in ("file", "duration_s", "recorded_at") if name in record}
    if wide == "clips":
        return [head | record["scores"]]
    return [head | {"start_s": each["start_s"], "end_s": each["end_s"]} | each["scores"] for each in record["windows"]]


def read_csv(path: str, wide: str, spreadsheet_safe: bool) -> Iterator[Record]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            columns = [parsed_cell("label", cell, spreadsheet_safe) or "" for cell in next(reader, [])]
            _check_columns(columns, wide)
            rows = (_parsed(row, columns, reader.line_num, spreadsheet_safe) for row in reader)
            yield from _records(rows, columns, wide)
        except csv.Error as error:
            raise ValueError(str(error)) from error


def _parsed(row: list[str], columns: list[str], line: int, spreadsheet_safe: bool) -> dict[str, Any]:
    try:
        names = [name if name in TEXTS else "duration_s" for name in columns]  # all numbers alike
        cells = [parsed_cell(name, cell, spreadsheet_safe) for name, cell in zip(names, row, strict=True)]
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error
    return dict(zip(columns, cells, strict=True))


def read_parquet(path: Any, wide: str) -> Iterator[Record]:
    from pyarrow import parquet

    with closing(parquet.ParquetFile(path)) as file:
        columns = file.schema_arrow.names
        _check_columns(columns, wide)
        yield from _records((row for batch in file.iter_batches() for row in batch.to_pylist()), columns, wide)


def _check_columns(columns: list[str], wide: str) -> None:
    key = _key(wide, columns[2:3] if columns[2:3] == ["recorded_at"] else [])
    if columns[: len(key)] != key or columns[-1:] != ["error"] or len({*columns}) < len(columns):
        wanted = f"{','.join(key)}, classes and error"
        raise ValueError(f"its columns are {excerpt(','.join(columns))}, not {wanted}")


def _records(rows: Iterable[dict[str, Any]], columns: list[str], wide: str) -> Iterator[Record]:
    times = columns[2:3] if columns[2:3] == ["recorded_at"] else []
    classes = columns[len(_key(wide, times)) : -1]
    for file, group in groupby(rows, key=lambda row: row["file"]):
        rows_of_file = list(group)
        first = rows_of_file[0]
        if first["error"] is not None:
            record: Record = {"file": file, "error": first["error"]}
        elif wide == "clips":
            record = {name: first[name] for name in _key("clips", times)}
            record["scores"] = {name: first[name] for name in classes}
        else:
            windows = [
                {"start_s": row["start_s"], "end_s": row["end_s"], "scores": {name: row[name] for name in classes}}
                for row in rows_of_file
            ]
            record = {name: first[name] for name in _key("clips", times)} | {"windows": windows}
        empty = dict.fromkeys(columns)
        if [empty | row for row in rows_of(record, wide)] != rows_of_file:
            raise ValueError(f"the rows of {file!r} are not those of one result: was one changed, removed or moved?")
        yield record
