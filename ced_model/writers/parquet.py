# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Records as Parquet. The model, engine and compute type that made them are in the file's metadata, as `ced`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO

import pyarrow
from pyarrow import parquet

from ..records import NUMBERS, Record, columns, records_of, rows_of, with_times

BATCH_ROWS = 2**16


def _schema(events: bool, has_times: bool) -> pyarrow.Schema:
    types = {int: pyarrow.int32(), float: pyarrow.float64(), str: pyarrow.string()}
    return pyarrow.schema([(column, types[NUMBERS.get(column, str)]) for column in columns(events, has_times)])


def write(records: Iterable[Record], stream: BinaryIO, events: bool, made_by: Mapping[str, str] | None) -> None:
    has_times, records = with_times(records)
    schema = _schema(events, has_times).with_metadata({"ced": json.dumps(made_by)} if made_by else None)
    rows = (row for record in records for row in rows_of(record, events))
    with parquet.ParquetWriter(stream, schema) as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def read(path: Any, events: bool) -> Iterator[Record]:
    """`path` may also be an open file."""
    with parquet.ParquetFile(path) as file:
        if not file.schema_arrow.equals(_schema(events, "recorded_at" in file.schema_arrow.names)):
            names = ", ".join(f"{field.name} {field.type}" for field in file.schema_arrow)
            raise ValueError(f"its columns are {names}")
        yield from records_of((row for batch in file.iter_batches() for row in batch.to_pylist()), events)
