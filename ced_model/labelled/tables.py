# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables of clips: CSV, TSV, JSON, JSON lines and Parquet."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..audio import describe
from ..safetensors_index import unique_keys
from .clips import ALL, Skipped, shown

PATH_COLUMNS = ("file_name", "filename", "path", "file", "filepath", "file_path", "audio", "fname")
LABEL_COLUMNS = ("labels", "label", "classes", "class", "category", "mids", "mid")
SPLIT_COLUMN = "split"
TABLE_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}


@dataclass
class Rows:
    """
    Clips of a folder or table, with labels as either `cells` or `columns` and `values`.

    Attributes:
        name: Name of the folder or table, for messages.
        paths: Paths that can be opened.
        cells: Cells of the label column: a text, a list of texts, or None.
        columns, values: Names of the classes with a column, and its values, float32 `(clips, classes)`.
        notes, skipped: As for `LabelledClips`.
    """

    name: str
    paths: list[str]
    cells: list[Any] | None = None
    columns: list[str] = field(default_factory=list)
    values: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def select(self, indices: list[int]) -> "Rows":
        return replace(
            self,
            paths=[self.paths[index] for index in indices],
            cells=None if self.cells is None else [self.cells[index] for index in indices],
            values=None if self.values is None else self.values[indices],
        )


@dataclass(frozen=True)
class Reading:
    """Options for reading tables, as for `read_labelled`."""

    audio_root: str | None = None
    path_column: str | None = None
    label_column: str | None = None


Table = dict[str, list[Any]]  # the values of each column


def table_rows(data: str, split: str | None, reading: Reading) -> Rows:
    table = read_table(data)
    names = splits_of(table)
    if names and split != ALL:
        chosen = choose_split(data, names, split)
        kept = [index for index, name in enumerate(table[SPLIT_COLUMN]) if text_of(name) == chosen]
        table = {column: [values[index] for index in kept] for column, values in table.items()}
    elif split not in (None, ALL):
        raise ValueError(f"{describe(data)}: no split {split!r}, since there is no column {SPLIT_COLUMN!r}.")
    return rows_of(data, table, reading)


def read_table(path: str) -> Table:
    """
    The columns of a table; cells of a CSV are strings.

    Raises:
        ValueError: if it cannot be read, or has no rows.
    """
    format = TABLE_FORMATS.get(os.path.splitext(path)[1].lower())
    if format is None:
        raise ValueError(
            f"{describe(path)}: not a table of clips; give a folder, or a file that ends in {', '.join(TABLE_FORMATS)}."
        )
    readers: dict[str, Callable[[str], Table]] = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}
    try:
        table = readers[format](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{describe(path)}: cannot be read as {format}: expected UTF-8 text.") from error
    except Exception as error:  # from csv, json or pyarrow
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{describe(path)}: cannot be read as {format}: {reason}.") from error
    if not table or not next(iter(table.values())):
        raise ValueError(f"{describe(path)}: the table has no rows.")
    return table


def _read_csv(path: str) -> Table:
    """All cells as strings; missing ones at the end of a row are empty."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        separator = "\t" if path.lower().endswith(".tsv") else ","
        if separator not in first:  # spreadsheets write semicolons where the comma is the decimal point
            separator = next((sign for sign in "\t;," if sign in first), separator)
        rows = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
        names = [name.strip() for name in next(rows, [])]
        if not names:
            raise ValueError("it is empty")
        if twice := [name for name in names if name and names.count(name) > 1]:
            raise ValueError(f"there are several columns {twice[0]!r}; keep one of them")
        table: Table = {name: [] for name in names if name}  # the index of pandas has no name
        for row in filter(None, rows):
            if len(row) > len(names):
                raise ValueError("rows have more cells than the header; put quotes around cells with commas")
            for name, value in zip(names, [*row, *[""] * (len(names) - len(row))], strict=True):
                if name:
                    table[name].append(value)
    return table


def _read_json(path: str) -> Table:
    """The columns of a list of objects, or of one object per line."""
    with open(path, encoding="utf-8-sig") as file:
        if path.lower().endswith(".json"):
            rows = json.load(file, object_pairs_hook=unique_keys)
        else:
            rows = [_json_line(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError('expected objects such as {"path": …, "label": …}, in a list or one per line')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _json_line(number: int, line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=unique_keys)
    except ValueError as error:
        raise ValueError(f"line {number}: {getattr(error, 'msg', error)}") from error


def _read_parquet(path: str) -> Table:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))  # written by datasets
    features = described.get("info", {}).get("features", {})
    return {name: label_names(features.get(name), table[name].to_pylist()) for name in table.column_names}


def label_names(feature: Any, values: list[Any]) -> list[Any]:
    """Replaces numbers by names, for a ClassLabel column of datasets."""
    inner: Any = feature[0] if isinstance(feature, list) else feature or {}
    inner = inner.get("feature", inner)
    if inner.get("_type") != "ClassLabel":
        return values
    names = inner["names"]

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(item) for item in value]
        return None if value is None or not 0 <= value < len(names) else names[value]  # -1 means no label

    return [name(value) for value in values]


def rows_of(path: str, table: Table, reading: Reading) -> Rows:
    """The clips of a table."""
    name = describe(path)
    path_column = _choose_column(name, table, reading.path_column, PATH_COLUMNS)
    if path_column is None:
        raise ValueError(f"{name}: no column of paths ({', '.join(PATH_COLUMNS[:4])}, …); it has {shown(table, 8)}.")
    root = reading.audio_root or os.path.dirname(path)
    rows = Rows(name, [_full_path(value, root, name) for value in table[path_column]])
    label_column = _choose_column(name, table, reading.label_column, LABEL_COLUMNS)
    if label_column is not None:
        rows.cells = table[label_column]
    elif {"onset", "offset"} <= {column.lower() for column in table}:
        raise ValueError(f"{name}: onset and offset are columns of strong labels: use `events=True`.")
    else:
        others = {column: values for column, values in table.items() if column not in (path_column, SPLIT_COLUMN)}
        rows.columns, rows.values, rows.notes = _class_columns(name, table, others)
    nameless = [index for index, value in enumerate(rows.paths) if not value]
    rows.skipped = [Skipped(f"{name}, row {index + 1}", "it has no path") for index in nameless]
    return rows.select([index for index, value in enumerate(rows.paths) if value]) if nameless else rows


def _class_columns(name: str, table: Table, others: Table) -> tuple[list[str], np.ndarray, list[str]]:
    """Names of classes with a column, their values, and a note on other columns."""
    numbers = {column: _unit_values(values) for column, values in others.items()}
    found = {column: values for column, values in numbers.items() if values is not None}
    if not found:
        raise ValueError(
            f"{name}: no column of labels ({', '.join(LABEL_COLUMNS[:4])}, …), and no columns of classes with values"
            f" from 0 to 1; it has {shown(table, 8)}."
        )
    ignored = [column for column in others if column not in found]
    notes = [f"{name}: columns ignored, since not all values are from 0 to 1: {shown(ignored, 8)}"]
    return list(found), np.stack(list(found.values()), axis=1), notes if ignored else []


def _choose_column(name: str, table: Table, wanted: str | None, usual: Sequence[str]) -> str | None:
    """The column `wanted`, by default the first of the usual ones."""
    if wanted is not None:
        if wanted not in table:
            raise ValueError(f"{name}: there is no column {wanted!r}; it has {shown(table, 8)}.")
        return wanted
    lowered = {column.lower(): column for column in reversed(table)}
    return next((lowered[column] for column in usual if column in lowered), None)


def _full_path(value: Any, root: str, name: str) -> str:
    if isinstance(value, dict):  # the Audio of datasets
        if value.get("bytes") is not None:
            raise ValueError(
                f"{name}: the table has the audio itself; write it to files and give their paths, or use --dataset."
            )
        value = value.get("path")
    text = text_of(value)
    return text if not text or "://" in text else os.path.join(root, text)


def text_of(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


def _unit_values(values: list[Any]) -> np.ndarray | None:
    """The values as float32, or None unless all are numbers from 0 to 1."""
    try:
        numbers = np.array([float(value) for value in values], np.float32)
    except (TypeError, ValueError):
        return None
    return numbers if bool(((numbers >= 0) & (numbers <= 1)).all()) else None


def splits_of(table: Table) -> list[str]:
    return list(dict.fromkeys(map(text_of, table.get(SPLIT_COLUMN, []))))


def choose_split(data: str, names: list[str], split: str | None) -> str:
    if split is None and len(names) == 1:
        return names[0]
    if split not in names:
        problem = "choose a split" if split is None else f"there is no split {split!r}"
        raise ValueError(f"{describe(data)}: {problem}; expected {', '.join(map(repr, names))}, or {ALL!r} for all.")
    return split
