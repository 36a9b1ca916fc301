# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads folders and tables of labelled clips."""

import os
from collections.abc import Sequence

import numpy as np

from ..audio import describe
from ..input_list import existing
from ..messages import OptionError, count
from .class_names import NAME_OF_MID, Vocabulary, describe_unknown, parse_cell
from .clips import (
    MISSING,
    MULTI_LABEL,
    SINGLE_LABEL,
    LabelledClips,
    checked_targets,
    detect_problem_type,
    without_duplicates,
    without_missing,
)
from .folders import folder_files, folder_rows
from .tables import Reading, Rows, read_table, splits_of, table_rows


def find_splits(data: str | os.PathLike) -> list[str]:
    """
    The splits of a folder or table, such as `["train", "test"]`; empty for a table without a column `split`.

    Raises:
        ValueError: if `data` cannot be read.
        ImportError: if `data` is a folder and datasets is not installed.
    """
    data = existing(data)
    if os.path.isdir(data):
        return list(folder_files(data))
    return splits_of(read_table(data))


def read_labelled(
    data: str | os.PathLike,
    *,
    split: str | None = None,
    audio_root: str | os.PathLike | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    separator: str = ";",
    classes: Sequence[str] | None = None,
    model_classes: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> LabelledClips:
    """
    Reads the paths and labels of clips.

    Args:
        data: A folder or a table; see the module.
        split: One of `find_splits`, or `"all"` for the clips of all splits. By default the only split.
        audio_root: Base folder of relative paths in a table, by default the folder of the table.
        path_column, label_column: Names of these columns in a table, if they are not the usual ones.
        separator: Separator of classes in a text.
        classes: Names of the target columns, whether they occur in the data or not. Labels are matched by name (first
            exactly, then ignoring case and with `_` for a space) or by AudioSet's machine id.
        model_classes: Like `classes`, but used only if all labels are among them, and reduced to those in the data.
            Otherwise, and by default, the sorted labels are the classes.
        problem_type: `"single_label_classification"` or `"multi_label_classification"`. By default single-label if
            each clip has exactly one class. Clips without a class are kept in multi-label data if these have lists,
            class columns, or clips with several classes.

    Returns:
        The clips. Missing files, clips without a label in single-label data, and files with contradictory labels are
        in `skipped`.

    Raises:
        ValueError: if there are no clips, labels are not in `classes`, or columns are missing. The message is one line.
        ImportError: if `data` is a folder and datasets is not installed.
    """
    if classes is not None and model_classes is not None:
        raise ValueError("Give either `classes` or `model_classes`, not both.")
    if problem_type not in (None, SINGLE_LABEL, MULTI_LABEL):
        raise OptionError("problem_type", problem_type, f"{SINGLE_LABEL} or {MULTI_LABEL}")
    data = existing(data)
    reading = Reading(None if audio_root is None else existing(audio_root), path_column, label_column)
    rows = folder_rows(data, split, reading) if os.path.isdir(data) else table_rows(data, split, reading)
    clips = clips_of(rows, separator, classes=classes, model_classes=model_classes, problem_type=problem_type)
    clips = without_missing(without_duplicates(clips))
    if not len(clips):
        path, reason = clips.skipped[0]
        hint = "; give the folder of the paths with `audio_root=…`" if reason == MISSING else ""
        raise ValueError(f"{rows.name}: no usable clips; for example {describe(path)}: {reason}{hint}.")
    return clips


def clips_of(
    rows: Rows,
    separator: str,
    *,
    classes: Sequence[str] | None = None,
    model_classes: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> LabelledClips:
    """The clips of rows, as from [`read_labelled`], without a check that the files exist."""
    targets, labels, is_explicit = _make_targets(rows, separator, classes, model_classes)
    problem_type = problem_type or detect_problem_type(targets, is_explicit)
    clips = LabelledClips(rows.paths, targets, labels, problem_type, rows.skipped, rows.notes)
    return checked_targets(clips, rows.name)


def _make_targets(
    rows: Rows, separator: str, classes: Sequence[str] | None, model_classes: Sequence[str] | None
) -> tuple[np.ndarray, list[str], bool]:
    """Targets, names of classes, and whether clips without a class are valid."""
    wanted = classes if classes is not None else model_classes
    if wanted is not None:
        vocabulary = Vocabulary(wanted)
        names, entries, is_explicit = _named_values(rows, separator, vocabulary)
        indices = [index for name in names if (index := vocabulary.find(name)) is not None]
        if len(indices) == len(names):
            kept = list(range(len(wanted))) if classes is not None else sorted(set(indices))
            place = {index: position for position, index in enumerate(kept)}
            targets = _gather(entries, [place[index] for index in indices], (len(rows.paths), len(kept)))
            return targets, [wanted[index] for index in kept], is_explicit
        if classes is not None:
            unknown = [name for name in names if vocabulary.find(name) is None]
            raise ValueError(f"{rows.name}: {describe_unknown(unknown, classes)}")
    names, entries, is_explicit = _named_values(rows, separator, None)
    plain = [NAME_OF_MID.get(name, name) for name in names]
    labels = sorted(set(plain))
    place_of = {label: position for position, label in enumerate(labels)}
    targets = _gather(entries, [place_of[name] for name in plain], (len(rows.paths), len(labels)))
    return targets, labels, is_explicit


Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, name and value of each target that is not 0


def _named_values(rows: Rows, separator: str, vocabulary: Vocabulary | None) -> tuple[list[str], Entries, bool]:
    """The names of classes in the order of the data, the entries of targets, and whether empty clips are valid."""
    if rows.values is not None:
        if not rows.values.any():
            raise ValueError(f"{rows.name}: no clip has any of its {count(len(rows.columns), 'class', 'es')}.")
        row, column = np.nonzero(rows.values)
        return rows.columns, (row, column, rows.values[row, column]), True
    names: dict[str, int] = {}
    row_of, name_of = [], []
    parsed: dict[str, list[str]] = {}
    assert rows.cells is not None
    for index, cell in enumerate(rows.cells):
        if not isinstance(cell, str):
            try:
                found = parse_cell(cell, separator, vocabulary)
            except ValueError as error:
                raise ValueError(f"{rows.name}, row {index + 1}: {error}") from error
        elif (found := parsed.get(cell)) is None:  # type: ignore[assignment]
            found = parsed[cell] = parse_cell(cell, separator, vocabulary)
        for name in found:
            row_of.append(index)
            name_of.append(names.setdefault(name, len(names)))
    if not names:
        raise ValueError(f"{rows.name}: no clip has a label.")
    is_explicit = any(isinstance(cell, (list, tuple, np.ndarray)) for cell in rows.cells)
    entries = np.array(row_of, int), np.array(name_of, int), np.ones(len(row_of), np.float32)
    return list(names), entries, is_explicit


def _gather(entries: Entries, columns: list[int], shape: tuple[int, int]) -> np.ndarray:
    """Targets of this shape. `columns` has the target column for each name."""
    row, name, value = entries
    targets = np.zeros(shape, np.float32)
    np.maximum.at(targets, (row, np.array(columns, int)[name]), value)
    return targets
