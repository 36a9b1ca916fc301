# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Labelled clips: folders and tables → the paths of audio files and their targets. No audio is read here.

What can be read, on local disks:

- a folder as the `audiofolder` of 🤗 datasets: a folder of clips per class, or a `metadata.csv`, `metadata.jsonl` or
  `metadata.parquet` that names the files. Splits (train, validation, test) are found by the names of folders or files
  as datasets finds them;
- a table: CSV, TSV, JSON, JSON lines or Parquet with a column of paths (`file_name`, `path`, …), relative to the
  table's folder or to `audio_root`. A column `split`, if there is one, tells the splits.

A table's labels (and a metadata file's) are

- in one column (`label`, `labels`, …). A text is one class, or several with `;` between them. Commas do not separate,
  since AudioSet's names have them ("Chuckle, chortle"), with two exceptions: machine ids ("/m/09x0r,/m/04rlf"), and
  texts that are no class of the given `classes` but several of them with commas between. In JSON and Parquet the
  column may hold lists instead. Machine ids of AudioSet stand for its classes;
- or, where there is no such column, in one column per class with values in [0, 1]: 0 and 1, or soft targets.
"""

import difflib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import escape
from typing import Any, NamedTuple

import numpy as np

from .audio import AUDIO_EXTENSIONS, describe
from .audioset import AUDIOSET_CLASSES

ALL = "all"
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"

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
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
MISSING = "there is no such file"
SHOWN = 3  # examples in a message
BATCH_ROWS = 10_000

INSTALL_TRAIN = 'pip install "ced_model[train]"'

NAME_OF_MID = dict(AUDIOSET_CLASSES)


class Skipped(NamedTuple):
    """A clip that is left out, and why, in one line."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class LabelledClips:
    """
    Audio files and their targets.

    Attributes:
        paths: of the audio files, each of them once.
        targets: float32 of shape `(clips, classes)` with values in [0, 1].
        labels: the names of the classes.
        problem_type: `"single_label_classification"`, where each clip has exactly one class, or
            `"multi_label_classification"`.
        skipped: clips that were left out, with the reason.
        notes: other things to know about the data, one line each.
    """

    paths: list[str]
    targets: np.ndarray = field(repr=False)
    labels: list[str] = field(repr=False)
    problem_type: str = MULTI_LABEL
    skipped: list[Skipped] = field(default_factory=list, repr=False)
    notes: list[str] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_soft_targets(self) -> bool:
        """Whether some targets are neither 0 nor 1."""
        return bool(((self.targets != 0) & (self.targets != 1)).any())

    def select(self, indices: Iterable[int]) -> "LabelledClips":
        """The clips with these indices, with the same classes."""
        kept = list(indices)
        return replace(self, paths=[self.paths[index] for index in kept], targets=self.targets[kept])


@dataclass
class _Rows:
    """
    What a folder or a table says of each clip: its path, and its labels in one of two ways.

    Attributes:
        name: of the folder or table, for messages.
        paths: as they can be opened.
        cells: what the label column holds: a text, a list of texts, or None.
        columns: the names of the classes, and `values`, float32 `(clips, classes)`, where each has a column.
        notes: see `LabelledClips`.
        skipped: see `LabelledClips`.
    """

    name: str
    paths: list[str]
    cells: list[Any] | None = None
    columns: list[str] = field(default_factory=list)
    values: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def select(self, indices: list[int]) -> "_Rows":
        return replace(
            self,
            paths=[self.paths[index] for index in indices],
            cells=None if self.cells is None else [self.cells[index] for index in indices],
            values=None if self.values is None else self.values[indices],
        )


@dataclass(frozen=True)
class _Reading:
    """How tables are read: see `read_labelled`."""

    audio_root: str | None = None
    path_column: str | None = None
    label_column: str | None = None


def find_splits(data: str | os.PathLike) -> list[str]:
    """
    The splits of a folder or table, such as `["train", "test"]`; none for a table without a column `split`.

    Raises:
        ValueError: if `data` cannot be read.
        ImportError: if the extra `[train]` is not installed.
    """
    data = _existing(data)
    if os.path.isdir(data):
        return list(_folder_files(data))
    return _splits_of(_read_table(data))


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
    Reads which clips there are and what is to be heard in them.

    Args:
        data: a folder or a table, see the module.
        split: one of `find_splits`, or `"all"`: every clip, whatever its split. By default the only split there is.
        audio_root: the folder that a table's relative paths start from, by default the table's own.
        path_column, label_column: names of columns, where they are not the usual ones.
        separator: what is between the classes in a text.
        classes: the classes of the targets, in this order, whether they occur or not. Labels are matched to them
            by name (if not exactly, then upper or lower case, with `_` for a space) or AudioSet's machine id.
        model_classes: the same, but only if all labels are among them, and of these only those that the data have (that
            occur, or have a column); else, and by default, the labels themselves are the classes, sorted.
        problem_type: `"single_label_classification"` or `"multi_label_classification"`. By default single-label if
            each clip has exactly one class. Clips without a class belong to multi-label data only, and there to those
            that have lists, class columns, or several classes for some clip.

    Returns:
        The clips. Files that do not exist, clips without a label in single-label data, and files with contradictory
        labels are in `skipped`.

    Raises:
        ValueError: in one line, if there is nothing to read, labels are not in `classes`, or columns are missing.
        ImportError: if the extra `[train]` is not installed.
    """
    if classes is not None and model_classes is not None:
        raise ValueError("Give either `classes` or `model_classes`, not both.")
    if problem_type not in (None, SINGLE_LABEL, MULTI_LABEL):
        raise ValueError(f"`problem_type={problem_type!r}` must be {SINGLE_LABEL!r} or {MULTI_LABEL!r}.")
    data = _existing(data)
    reading = _Reading(None if audio_root is None else _existing(audio_root), path_column, label_column)
    rows = _folder_rows(data, split, reading) if os.path.isdir(data) else _table_rows(data, split, reading)
    targets, labels, is_explicit = _make_targets(rows, separator, classes, model_classes)
    problem_type = problem_type or _detect_problem_type(targets, is_explicit)
    clips = LabelledClips(rows.paths, targets, labels, problem_type, rows.skipped, rows.notes)
    clips = _without_missing(_without_duplicates(_checked_targets(clips, rows.name)))
    if not len(clips):
        path, reason = clips.skipped[0]
        hint = "; `audio_root` says where the paths of a table start" if reason == MISSING else ""
        raise ValueError(f"{rows.name}: no clip is left, for example because of {describe(path)}: {reason}{hint}.")
    return clips


def match_labels(labels: Sequence[str], classes: Sequence[str]) -> list[int]:
    """
    The index of each label in `classes`: by its name, upper or lower case, with `_` for a space, or machine id.

    Raises:
        ValueError: in one line, if some are none of them; similar ones are named.
    """
    vocabulary = _Vocabulary(classes)
    found = [vocabulary.find(label) for label in labels]
    unknown = [label for label, index in zip(labels, found, strict=True) if index is None]
    if unknown:
        raise ValueError(_unknown_labels(unknown, classes))
    return [index for index in found if index is not None]


# Names of classes


class _Vocabulary:
    """Finds classes by name."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.most_pieces = 1 + max((name.count(",") for name in classes), default=0)
        self._exact = {name: index for index, name in enumerate(classes)}
        self._folded: dict[str, int | None] = {}
        for index, name in enumerate(classes):
            folded = _folded(name)
            self._folded[folded] = None if folded in self._folded else index  # None: ambiguous

    def find(self, name: str) -> int | None:
        for candidate in (name, NAME_OF_MID.get(name, name)):
            index = self._exact.get(candidate)
            if index is None:
                index = self._folded.get(_folded(candidate))
            if index is not None:
                return index
        return None


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _unknown_labels(unknown: Sequence[str], classes: Sequence[str]) -> str:
    names = {_folded(name): name for name in classes}
    hints = []
    for label in unknown[:SHOWN]:
        close = [names[match] for match in difflib.get_close_matches(_folded(label), names, n=2, cutoff=0.7)]
        hints.append(repr(label) + (f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""))
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    are = "is" if len(unknown) == 1 else "are"
    return f"{', '.join(hints)}{more} {are} not among the {_count(len(classes), 'class', 'es')}: {_shown(classes)}."


def _parse_cell(cell: Any, separator: str, vocabulary: _Vocabulary | None) -> list[str]:
    """The names in a cell of the label column."""
    if isinstance(cell, (list, tuple, np.ndarray)):
        return [text for name in cell if (text := _text(name))]
    text = _text(cell)
    if not text or (vocabulary is not None and vocabulary.find(text) is not None):
        return [text] if text else []
    parts = [part.strip() for part in text.split(separator)] if separator else [text]
    return [name for part in parts if part for name in _split_commas(part, vocabulary)]


def _split_commas(text: str, vocabulary: _Vocabulary | None) -> list[str]:
    """The machine ids or known classes that a text consists of; else the text itself."""
    pieces = [piece.strip() for piece in text.split(",")]
    if all(piece in NAME_OF_MID for piece in pieces):
        return pieces
    return (vocabulary and _known_sequence(pieces, vocabulary)) or [text]


def _known_sequence(pieces: list[str], vocabulary: _Vocabulary) -> list[str] | None:
    """Known names, the first ones as long as can be, that make up `pieces`, which were separated by commas."""
    rests: list[list[str] | None] = [None] * len(pieces) + [[]]  # the names from each piece on
    for start in reversed(range(len(pieces))):
        for end in range(start + 1, min(start + vocabulary.most_pieces, len(pieces)) + 1):
            name, rest = ", ".join(pieces[start:end]), rests[end]
            if rest is not None and vocabulary.find(name) is not None:
                rests[start] = [name, *rest]  # a longer one, if there is any, comes later
    return rests[0]


# Targets


def _make_targets(
    rows: _Rows, separator: str, classes: Sequence[str] | None, model_classes: Sequence[str] | None
) -> tuple[np.ndarray, list[str], bool]:
    """Targets, the names of their classes, and whether clips without a class are meant to have none."""
    wanted = classes if classes is not None else model_classes
    if wanted is not None:
        vocabulary = _Vocabulary(wanted)
        names, entries, is_explicit = _named_values(rows, separator, vocabulary)
        indices = [index for name in names if (index := vocabulary.find(name)) is not None]
        if len(indices) == len(names):
            kept = list(range(len(wanted))) if classes is not None else sorted(set(indices))
            place = {index: position for position, index in enumerate(kept)}
            targets = _gather(entries, [place[index] for index in indices], (len(rows.paths), len(kept)))
            return targets, [wanted[index] for index in kept], is_explicit
        if classes is not None:
            unknown = [name for name in names if vocabulary.find(name) is None]
            raise ValueError(f"{rows.name}: {_unknown_labels(unknown, classes)}")
    names, entries, is_explicit = _named_values(rows, separator, None)
    plain = [NAME_OF_MID.get(name, name) for name in names]
    labels = sorted(set(plain))
    place_of = {label: position for position, label in enumerate(labels)}
    targets = _gather(entries, [place_of[name] for name in plain], (len(rows.paths), len(labels)))
    return targets, labels, is_explicit


Entries = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, name and value of what is not 0


def _named_values(rows: _Rows, separator: str, vocabulary: _Vocabulary | None) -> tuple[list[str], Entries, bool]:
    """The names as the data have them, in the order in which they come, and the entries of their targets."""
    if rows.values is not None:
        if not rows.values.any():
            raise ValueError(f"{rows.name}: no clip has any of its {_count(len(rows.columns), 'class', 'es')}.")
        row, column = np.nonzero(rows.values)
        return rows.columns, (row, column, rows.values[row, column]), True
    names: dict[str, int] = {}
    row_of, name_of = [], []
    parsed: dict[str, list[str]] = {}
    assert rows.cells is not None
    for index, cell in enumerate(rows.cells):
        if not isinstance(cell, str):
            found = _parse_cell(cell, separator, vocabulary)
        elif (found := parsed.get(cell)) is None:  # type: ignore[assignment]
            found = parsed[cell] = _parse_cell(cell, separator, vocabulary)
        for name in found:
            row_of.append(index)
            name_of.append(names.setdefault(name, len(names)))
    if not names:
        raise ValueError(f"{rows.name}: no clip has a label.")
    is_explicit = any(isinstance(cell, (list, tuple, np.ndarray)) for cell in rows.cells)
    entries = np.array(row_of, int), np.array(name_of, int), np.ones(len(row_of), np.float32)
    return list(names), entries, is_explicit


def _gather(entries: Entries, columns: list[int], shape: tuple[int, int]) -> np.ndarray:
    """Targets of this shape, of which `columns` has the class of each name."""
    row, name, value = entries
    targets = np.zeros(shape, np.float32)
    np.maximum.at(targets, (row, np.array(columns, int)[name]), value)
    return targets


def _detect_problem_type(targets: np.ndarray, is_explicit: bool) -> str:
    counts = (targets > 0).sum(axis=1)
    if ((targets != 0) & (targets != 1)).any():
        return MULTI_LABEL
    if is_explicit:
        return SINGLE_LABEL if (counts == 1).all() and targets.shape[1] > 1 else MULTI_LABEL
    return SINGLE_LABEL if (counts <= 1).all() else MULTI_LABEL


def _checked_targets(clips: LabelledClips, name: str) -> LabelledClips:
    """Raises a ValueError for targets that do not fit the problem type; clips without a label are left out."""
    if clips.problem_type == MULTI_LABEL:
        return clips
    counts = (clips.targets > 0).sum(axis=1)
    if (counts > 1).any():
        index = int(np.argmax(counts > 1))
        names = [clips.labels[column] for column in np.flatnonzero(clips.targets[index])]
        raise ValueError(
            f"{name}: single-label data have one class per clip, but {describe(clips.paths[index])} has"
            f" {_shown(names)}."
        )
    if clips.has_soft_targets:
        raise ValueError(f"{name}: single-label data have targets of 0 and 1 only, but these are soft.")
    return _leave_out(clips, {int(index): "it has no label" for index in np.flatnonzero(counts == 0)})


def _without_duplicates(clips: LabelledClips) -> LabelledClips:
    """Each file once; none of those that come with several different labels."""
    places: dict[str, list[int]] = {}
    for index, path in enumerate(clips.paths):
        places.setdefault(os.path.abspath(path), []).append(index)
    repeated = [indices for indices in places.values() if len(indices) > 1]
    if not repeated:
        return clips
    dropped = {index for indices in repeated for index in indices[1:]}
    order = [index for index in range(len(clips)) if index not in dropped]
    contradictory = {indices[0] for indices in repeated if np.ptp(clips.targets[indices], axis=0).any()}
    doubles = [indices[0] for indices in repeated if indices[0] not in contradictory]
    notes = list(clips.notes)
    if doubles:
        example = describe(clips.paths[doubles[0]])
        notes.append(f"{_count(len(doubles), 'file')} listed more than once, such as {example}: each counts once")
    reason = "listed more than once, with different labels"
    reasons = {place: reason for place, index in enumerate(order) if index in contradictory}
    return _leave_out(replace(clips.select(order), notes=notes), reasons)


def _without_missing(clips: LabelledClips) -> LabelledClips:
    reasons: dict[int, str] = {}
    for index, path in enumerate(clips.paths):
        if "://" in path:
            reasons[index] = "URLs are not fetched: download it first"
        elif not os.path.exists(path):
            reasons[index] = MISSING
    return _leave_out(clips, reasons)


def _leave_out(clips: LabelledClips, reasons: Mapping[int, str]) -> LabelledClips:
    if not reasons:
        return clips
    skipped = [Skipped(clips.paths[index], reason) for index, reason in sorted(reasons.items())]
    kept = clips.select(index for index in range(len(clips)) if index not in reasons)
    return replace(kept, skipped=[*clips.skipped, *skipped])


# Folders


def _folder_rows(data: str, split: str | None, reading: _Reading) -> _Rows:
    every = _walk(data)
    splits = {ALL: every} if split == ALL else _folder_files(data)
    files = splits[_choose_split(data, list(splits), split)]
    metadata = [path for path in files if os.path.basename(path) in METADATA_FILES]
    # Above the folders of the splits, where datasets does not look, one may list the clips of all splits.
    above = [path for name in METADATA_FILES if os.path.isfile(path := os.path.join(data, name))]
    if metadata or above:
        elsewhere = {path for name in splits for path in splits[name]}.difference(files)
        rows = _without_paths(_metadata_rows(data, metadata or above, reading), elsewhere)
        rows.notes += _left_out(files, rows.paths, "not listed in the metadata")
    else:
        rows = _class_folders(data, files, every, reading)
    inside = [path for name in splits for path in splits[name]]
    names = ", ".join(map(repr, splits))
    rows.notes += _left_out(every, inside, f"in none of the splits {names}; {ALL!r} has them")
    return rows


def _left_out(paths: Iterable[str], read: Iterable[str], where: str) -> list[str]:
    """A note on the audio files among `paths` that are not `read`, if there are any."""
    known = set(map(os.path.abspath, read))
    left = [path for path in paths if _is_audio(path) and os.path.abspath(path) not in known]
    return [f"{_count(len(left), 'audio file')}, such as {describe(left[0])}, {where}"] if left else []


def _folder_files(data: str) -> dict[str, list[str]]:
    """All files of each split, as datasets finds them."""
    datasets = _import_datasets()
    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = datasets.load_dataset_builder("audiofolder", data_dir=escape(data), cache_dir=cache)
        except FileNotFoundError as error:  # datasets.EmptyDatasetError
            raise ValueError(f"{describe(data)}: there are no files in this folder.") from error
    root = os.path.realpath(data)
    return {
        str(name): sorted(os.path.join(data, os.path.relpath(path, root)) for path in paths)
        for name, paths in builder.config.data_files.items()
    }


def _walk(folder: str) -> list[str]:
    """All files in a folder; hidden ones are left out, as datasets does. Links to folders are followed, none twice."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        found += [os.path.join(parent, name) for name in sorted(files) if not name.startswith(".")]
    return found


def _is_audio(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in AUDIO_EXTENSIONS


def _class_folders(data: str, files: list[str], every: list[str], reading: _Reading) -> _Rows:
    """Clips whose class is the name of their folder."""
    name = describe(data)
    if reading != _Reading():
        raise ValueError(f"{name}: `audio_root`, `path_column` and `label_column` are for tables, not for folders.")
    paths = [path for path in files if _is_audio(path)]
    tables = [path for path in every if os.path.splitext(path)[1].lower() in TABLE_FORMATS]
    hint = f"; or give the table of labels: is it {describe(tables[0])}?" if tables else "."
    if not paths:
        raise ValueError(f"{name}: there are no audio files here{hint}")
    by_depth: dict[int, str] = {}
    for path in paths:
        by_depth.setdefault(os.path.relpath(path, data).count(os.sep), path)
    if 0 in by_depth:
        raise ValueError(
            f"{name}: {describe(by_depth[0])} is in no folder of a class, and there is no metadata.csv; make a folder"
            f" for each class{hint}"
        )
    if len(by_depth) > 1:
        shallow, deep = by_depth[min(by_depth)], by_depth[max(by_depth)]
        raise ValueError(
            f"{name}: the folders of the classes must all be equally deep, but there are {describe(shallow)} and"
            f" {describe(deep)}{hint}"
        )
    classes = [os.path.basename(os.path.dirname(path)) for path in paths]
    if len(set(classes)) == 1 and tables:
        raise ValueError(f"{name}: all clips are in one folder, {classes[0]!r}; make a folder for each class{hint}")
    return _Rows(name, paths, classes)


def _metadata_rows(data: str, paths: list[str], reading: _Reading) -> _Rows:
    """The rows of one or several metadata files."""
    tables = [_rows_of(path, _read_table(path), reading) for path in paths]
    if len({tuple(table.columns) for table in tables}) > 1:
        raise ValueError(f"{describe(data)}: {_shown([table.name for table in tables])} have different columns.")
    first = tables[0]
    return _Rows(
        describe(data) if len(tables) > 1 else first.name,
        [path for table in tables for path in table.paths],
        None if first.cells is None else [cell for table in tables for cell in table.cells or []],
        first.columns,
        None
        if first.values is None
        else np.concatenate([table.values for table in tables if table.values is not None]),
        list(dict.fromkeys(note for table in tables for note in table.notes)),
        [item for table in tables for item in table.skipped],
    )


def _without_paths(rows: _Rows, unwanted: Iterable[str]) -> _Rows:
    left_out = set(map(os.path.abspath, unwanted))
    return rows.select([index for index, path in enumerate(rows.paths) if os.path.abspath(path) not in left_out])


# Tables


Table = dict[str, list[Any]]  # the values of each column


def _table_rows(data: str, split: str | None, reading: _Reading) -> _Rows:
    table = _read_table(data)
    names = _splits_of(table)
    if names and split != ALL:
        chosen = _choose_split(data, names, split)
        kept = [index for index, name in enumerate(table[SPLIT_COLUMN]) if _text(name) == chosen]
        table = {column: [values[index] for index in kept] for column, values in table.items()}
    elif split not in (None, ALL):
        raise ValueError(f"{describe(data)}: there is no column {SPLIT_COLUMN!r}, and so no split {split!r}.")
    return _rows_of(data, table, reading)


def _read_table(path: str) -> Table:
    """
    The columns of a table; those of a CSV as texts.

    Raises:
        ValueError: if it cannot be read, or has no rows.
    """
    format = TABLE_FORMATS.get(os.path.splitext(path)[1].lower())
    if format is None:
        raise ValueError(
            f"{describe(path)}: not a table of clips; give a folder, or a file that ends in {', '.join(TABLE_FORMATS)}."
        )
    _import_datasets()
    readers: dict[str, Callable[[str], Table]] = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}
    try:
        table = readers[format](path)
    except Exception as error:  # of pandas, pyarrow and datasets
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{describe(path)}: cannot be read as {format}: {reason}.") from error
    if not table or not next(iter(table.values())):
        raise ValueError(f"{describe(path)}: the table has no rows.")
    return table


# CSV and JSON are not read through datasets: there a class "None" or "NA" would be no label, and where a large file of
# JSON lines has a text in some rows and a list in others, texts would gain quotes.


def _read_csv(path: str) -> Table:
    import pandas

    separator = "\t" if path.lower().endswith(".tsv") else ","
    frame = pandas.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    if not isinstance(frame.index, pandas.RangeIndex):
        raise ValueError("rows have more fields than the first line names; a field with a comma needs quotes around it")
    return {str(name).strip(): frame[name].tolist() for name in frame.columns}


def _read_json(path: str) -> Table:
    """Of a list of objects, or of one object a line."""
    with open(path, encoding="utf-8-sig") as file:
        if path.lower().endswith(".json"):
            rows = json.load(file)
        else:
            rows = [_json_line(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError('expected objects such as {"path": …, "label": …}, in a list or one a line')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _json_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error.msg}") from error


def _read_parquet(path: str) -> Table:
    datasets = _import_datasets()
    columns: Table = {}
    with tempfile.TemporaryDirectory() as cache, _silent(datasets):
        data = datasets.load_dataset("parquet", data_files=escape(path), split="train", streaming=True, cache_dir=cache)
        for batch in data.with_format("arrow").iter(BATCH_ROWS):
            features = datasets.Features.from_arrow_schema(batch.schema)
            for name in batch.column_names:
                values = batch.column(name).to_pylist()
                columns.setdefault(name, []).extend(_named(features[name], values, datasets))
    return columns


@contextmanager
def _silent(datasets: Any) -> Iterator[None]:
    """datasets logs the errors that it raises."""
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)


def _named(feature: Any, values: list[Any], datasets: Any) -> list[Any]:
    """Values with the names that a column of class labels has for its numbers."""
    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None else feature.names[value] for value in values]
    if isinstance(inner, datasets.ClassLabel):
        return [None if value is None else [inner.names[index] for index in value] for value in values]
    return values


def _rows_of(path: str, table: Table, reading: _Reading) -> _Rows:
    """The clips of a table."""
    name = describe(path)
    path_column = _choose_column(name, table, reading.path_column, PATH_COLUMNS)
    if path_column is None:
        raise ValueError(f"{name}: no column of paths ({', '.join(PATH_COLUMNS[:4])}, …); it has {_shown(table, 8)}.")
    root = reading.audio_root or os.path.dirname(path)
    rows = _Rows(name, [_full_path(value, root, name) for value in table[path_column]])
    label_column = _choose_column(name, table, reading.label_column, LABEL_COLUMNS)
    if label_column is not None:
        rows.cells = table[label_column]
    else:
        others = {column: values for column, values in table.items() if column not in (path_column, SPLIT_COLUMN)}
        rows.columns, rows.values, rows.notes = _class_columns(name, table, others)
    nameless = [index for index, value in enumerate(rows.paths) if not value]
    rows.skipped = [Skipped(f"{name}, row {index + 1}", "it has no path") for index in nameless]
    return rows.select([index for index, value in enumerate(rows.paths) if value]) if nameless else rows


def _class_columns(name: str, table: Table, others: Table) -> tuple[list[str], np.ndarray, list[str]]:
    """The names of classes that have a column, their values, and a note on the columns that are none of a class."""
    numbers = {column: _unit_values(values) for column, values in others.items()}
    found = {column: values for column, values in numbers.items() if values is not None}
    if not found:
        raise ValueError(
            f"{name}: no column of labels ({', '.join(LABEL_COLUMNS[:4])}, …), and none for a class with values from 0"
            f" to 1; it has {_shown(table, 8)}."
        )
    ignored = [column for column in others if column not in found]
    notes = [f"{name}: no columns of classes, for not all values are from 0 to 1: {_shown(ignored, 8)}"]
    return list(found), np.stack(list(found.values()), axis=1), notes if ignored else []


def _choose_column(name: str, table: Table, wanted: str | None, usual: Sequence[str]) -> str | None:
    """The column `wanted`, or else the first of the usual ones."""
    if wanted is not None:
        if wanted not in table:
            raise ValueError(f"{name}: there is no column {wanted!r}; it has {_shown(table, 8)}.")
        return wanted
    lowered = {column.lower(): column for column in reversed(table)}
    return next((lowered[column] for column in usual if column in lowered), None)


def _full_path(value: Any, root: str, name: str) -> str:
    if isinstance(value, dict):  # the Audio of datasets
        if value.get("bytes") is not None:
            raise ValueError(f"{name}: the table holds the audio itself; write it to files and give their paths.")
        value = value.get("path")
    text = _text(value)
    return text if not text or "://" in text else os.path.join(root, text)


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


def _unit_values(values: list[Any]) -> np.ndarray | None:
    """The values as float32 if they are all numbers from 0 to 1."""
    try:
        numbers = np.array([float(value) for value in values], np.float32)
    except (TypeError, ValueError):
        return None
    return numbers if bool(((numbers >= 0) & (numbers <= 1)).all()) else None


def _splits_of(table: Table) -> list[str]:
    return list(dict.fromkeys(map(_text, table.get(SPLIT_COLUMN, []))))


# What both share


def _choose_split(data: str, names: list[str], split: str | None) -> str:
    if split is None and len(names) == 1:
        return names[0]
    if split not in names:
        problem = "choose a split" if split is None else f"there is no split {split!r}"
        raise ValueError(f"{describe(data)}: {problem}; there are {', '.join(map(repr, names))}, and {ALL!r} for all.")
    return split


def _existing(path: str | os.PathLike) -> str:
    text = os.path.expanduser(os.fspath(path))
    if "://" in text:
        raise ValueError(f"{describe(text)}: labelled clips are read from local files only; download them first.")
    if not os.path.exists(text):
        raise ValueError(f"{describe(text)}: there is no such file or folder.")
    return text


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"Reading labelled clips needs datasets: {INSTALL_TRAIN}") from error
    return datasets


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _shown(names: Iterable[str], most: int = SHOWN) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (", …" if len(names) > most else "")


__all__ = [
    "ALL",
    "MULTI_LABEL",
    "SINGLE_LABEL",
    "LabelledClips",
    "Skipped",
    "find_splits",
    "match_labels",
    "read_labelled",
]
