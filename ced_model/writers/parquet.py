# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Records as Parquet. The file metadata `ced` has the model, engine and compute type."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO

import pyarrow
from pyarrow import parquet

from ..records import Record, classes_in, column_types, excerpt, records_of, rows_of, table_columns

BATCH_CELLS = 2**19  # cells per batch of rows


def _schema(names: Sequence[str], kind: str) -> pyarrow.Schema:
    types = {int: pyarrow.int32(), float: pyarrow.float64(), str: pyarrow.string()}
    return pyarrow.schema([(name, types[type_]) for name, type_ in column_types(names, kind).items()])


def write(
    records: Iterable[Record], stream: BinaryIO, kind: str, made_by: Mapping[str, str] | None, has_times: bool
) -> None:
    names, records = table_columns(records, kind, has_times)
    schema = _schema(names, kind).with_metadata({"ced": json.dumps(made_by)} if made_by else None)
    rows = (row for record in records for row in rows_of(record, kind))
    with parquet.ParquetWriter(stream, schema) as writer:
        while batch := list(islice(rows, BATCH_CELLS // len(names))):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def read(path: Any, kind: str) -> Iterator[Record]:
    """`path` may also be an open file."""
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        classes_in(names, kind)
        if not file.schema_arrow.equals(_schema(names, kind)):
            found = ", ".join(f"{field.name} {field.type}" for field in file.schema_arrow)
            raise ValueError(f"its columns are {excerpt(found)}")
        yield from records_of((row for batch in file.iter_batches() for row in batch.to_pylist()), names, kind)
