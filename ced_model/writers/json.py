# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Records as a JSON array, or as JSON lines."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from ..records import Record, excerpt


def json_line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace") + b"\n"


def write_lines(records: Iterable[Record], stream: BinaryIO) -> None:
    for record in records:
        stream.write(json_line(record))
        stream.flush()


def write_array(records: Iterable[Record], stream: BinaryIO) -> None:
    separator = b"[\n"
    try:
        for record in records:
            stream.write(separator + json_line(record))
            stream.flush()
            separator = (
                b","  # written before the next record, so that on a terminal errors appear between complete lines
            )
    finally:  # also closes the array of an interrupted run
        stream.write(b"[]\n" if separator == b"[\n" else b"]\n")
        stream.flush()


def parse_json(text: str | bytes) -> Any:
    """Parses JSON. Raises a `ValueError` for NaN, Infinity, and duplicate keys of an object."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"{excerpt(found)} has a duplicate key")
    return found


def read_lines(path: str) -> Iterator[Record]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error


def read_array(path: str) -> Iterator[Record]:
    with open(path, "rb") as file:
        records = parse_json(file.read().decode("utf-8-sig"))
    if not isinstance(records, list):
        raise ValueError("not a list of records")
    yield from records
