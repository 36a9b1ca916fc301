# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads files of class names (`--label-map`) and of thresholds and other event settings by class."""

import csv
import io
import json
import math
import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from .classes import FileText
from .events import SETTINGS, check_setting
from .messages import OptionError, UsageError, one_line, printable
from .safetensors_index import unique_keys

CLASS_COLUMNS = ("label", "class", "mid")
THRESHOLD_COLUMN = "best_threshold"  # as `ced evaluate` writes it
EVALUATION_COLUMNS = ("positives", "AP", "AUC", "d_prime", "best_F1")  # ignored
MAP_HEADS = ("class", "label", "mid", "from", "audioset")


def read_label_map(path: str | os.PathLike[str]) -> dict[str, str]:
    """
    Reads a CSV with two columns: a class or group, and your own name for it (empty to leave it out of outputs).

    A first line that begins with `class` or `label` is a header.

    Returns:
        Names by class, for `label_map` of [`AudioTagger`], which reports classes that the model does not have with
        their line.

    Raises:
        UsageError: for an invalid line, with its number.
        OSError: if the file cannot be read.
    """
    found: dict[str, str] = {}
    for place, row in text_rows(path):
        if not found and place.endswith("line 1") and row[0].strip().casefold() in MAP_HEADS:
            continue
        if len(row) != 2:
            hint = '; quote a name that has commas: "…"' if len(row) > 2 else ""
            raise UsageError(f"{place}: expected 2 cells, a class and your name for it, found {len(row)}{hint}")
        name = row[1].strip()
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise UsageError(f"{place}: the name {printable(name)!r} has control characters")
        _add(found, row[0], place, name)
    if not found:
        raise UsageError(f"{printable(path)}: expected a class and your name for it in each line, found none")
    return found


def read_thresholds(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """
    Reads thresholds and other event settings by class, from CSV or JSON.

    A CSV file has a header with `label` (or `class`, or `mid`) and `threshold` (or `best_threshold`, as in the files of
    `ced evaluate --per-class`), and optional columns `off_threshold`, `smooth_s`, `smoothing`, `min_duration_s`,
    `merge_gap_s` and `max_duration_s`. An empty cell means the common setting; a class with only empty cells is left
    out. A JSON file is an object with a threshold or an object of settings for each class, or the output of
    `ced evaluate --json`. The class `*` means all others.

    Returns:
        Settings by class, for `thresholds` of [`AudioTagger.events`], which reports classes that the model does not
        have with their line.

    Raises:
        UsageError: for an invalid line, with its number.
        OSError: if the file cannot be read.
    """
    text = _text(path)
    rows = _json_rows(path, text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(path)
    found: dict[str, dict[str, Any]] = {}
    for place, name, cells in rows:
        settings = {}
        for column, cell in cells.items():
            option = "threshold" if column == THRESHOLD_COLUMN else column
            if option in SETTINGS and cell is not None and cell != "":
                settings[option] = _setting(option, cell, f"{place}, {column}")
        if settings:
            _add(found, name, place, settings)
    if not found:
        raise UsageError(f"{printable(path)}: expected thresholds of classes, found none")
    return found


def _add(found: dict[str, Any], name: str, place: str, value: Any) -> None:
    name = name.strip()
    if not name:
        raise UsageError(f"{place}: the name of the class is missing")
    if name in found:
        first = next(key for key in found if key == name)
        raise UsageError(f"{place}: {printable(name)!r} appears twice (first: {getattr(first, 'place', '')})")
    found[FileText.at(name, place)] = value


def _setting(option: str, cell: Any, place: str) -> Any:
    value = cell
    if option != "smoothing":
        with suppress(TypeError, ValueError, OverflowError):
            value = cell if isinstance(cell, bool) or "_" in str(cell) else float(cell)
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(option, value, "a number")
        check_setting(option, value, option)
    except OptionError as error:
        is_comma = "," in str(cell) and str(cell).replace(",", "", 1).isdecimal()
        hint = ": write a point, not a comma" if is_comma else ""
        raise UsageError(f"{place}: expected {error.expected}, found {_shown(cell)}{hint}") from error
    return value


def _shown(cell: Any) -> str:
    return printable(repr(cell))[:60]


def _text(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{printable(path)}, line {line}: expected UTF-8 text") from error


def text_rows(path: str | os.PathLike[str], delimiter: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """The rows of a CSV file with their places, without empty lines and comments (#)."""
    text = _text(path)
    first = text.split("\n", 1)[0]
    if delimiter is None:
        delimiter = next((sign for sign in ("\t", ";") if sign in first and "," not in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    line = 1
    try:
        for row in reader:
            if any(map(str.strip, row)) and not row[0].startswith("#"):
                yield f"{printable(path)}, line {line}", row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{printable(path)}, line {line}: expected CSV: {one_line(error)}") from error


def _csv_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    rows = text_rows(path)
    place, head = next(rows, (f"{printable(path)}, line 1", []))
    head = [name.strip() for name in head]
    name_column = next((name for name in CLASS_COLUMNS if name in head), None)
    wanted = f"columns label, threshold and any of {', '.join(SETTINGS[1:])}"
    if name_column is None or not {"threshold", THRESHOLD_COLUMN} & set(head):
        raise UsageError(f"{place}: expected {wanted}, found {_shown(','.join(head))}")
    for name in head:
        if name not in (*SETTINGS, THRESHOLD_COLUMN, *CLASS_COLUMNS, *EVALUATION_COLUMNS):
            raise UsageError(f"{place}: expected {wanted}, found {_shown(name)}")
    for same in (("threshold", THRESHOLD_COLUMN), *((name,) for name in head if name not in EVALUATION_COLUMNS)):
        if len(several := [name for name in head if name in same]) > 1:
            raise UsageError(f"{place}: expected one of the columns {' and '.join(several)}")
    for place, row in rows:
        if len(row) != len(head):
            raise UsageError(f"{place}: expected {len(head)} cells as in the header, found {len(row)}")
        cells = dict(zip(head, map(str.strip, row), strict=True))
        yield place, cells[name_column], cells


def _name_in(row: Any) -> str:
    """The class of an object in a list; empty if it has none."""
    names = [row[column] for column in CLASS_COLUMNS if column in row] if isinstance(row, dict) else []
    return names[0] if names and isinstance(names[0], str) else ""


def _json_rows(path: str | os.PathLike[str], text: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    try:
        content = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UsageError(f"{printable(path)}, line {line}: expected JSON: {one_line(error)}") from error
    if isinstance(content, dict) and isinstance(content.get("per_class"), list):
        content = content["per_class"]
    if isinstance(content, list):
        named = [(_name_in(row), row) for row in content]
    else:
        named = list(content.items())
    for name, value in named:
        quoted = json.dumps(name, ensure_ascii=False)
        before = text.find(quoted)
        place = f"{printable(path)}, line {text.count(chr(10), 0, max(before, 0)) + 1}"
        cells = value if isinstance(value, dict) else {"threshold": value}
        for column in cells:
            if column not in (*SETTINGS, THRESHOLD_COLUMN, *CLASS_COLUMNS, *EVALUATION_COLUMNS):
                raise UsageError(f"{place}: expected any of {', '.join(SETTINGS)}, found {_shown(column)}")
        yield place, name, cells
