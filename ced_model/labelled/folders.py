# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of clips in the layout of `audiofolder` of 🤗 datasets."""

import os
import tempfile
from collections.abc import Iterable
from glob import escape

import numpy as np

from ..audio import describe, is_audio_name, walk_files
from ..class_folders import classes_of
from ..messages import count
from ..packages import require
from .clips import ALL, shown
from .tables import TABLE_FORMATS, Reading, Rows, choose_split, read_table, rows_of

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def folder_rows(data: str, split: str | None, reading: Reading) -> Rows:
    every = [path for path in walk_files(data) if not _is_left_out(os.path.relpath(path, data))]
    splits = {ALL: every} if split == ALL else folder_files(data)
    files = splits[choose_split(data, list(splits), split)]
    metadata = [path for path in files if os.path.basename(path) in METADATA_FILES]
    # A metadata file above the folders of the splits, which datasets ignores, may list the clips of all splits.
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


def _is_left_out(path: str) -> bool:
    """Whether a path is in a folder that datasets ignores, such as __pycache__."""
    return any(folder.startswith("__") for folder in path.split(os.sep)[:-1])


def _left_out(paths: Iterable[str], read: Iterable[str], where: str) -> list[str]:
    """A note on audio files in `paths` that are not in `read`, if there are any."""
    known = set(map(os.path.abspath, read))
    left = [path for path in paths if is_audio_name(path) and os.path.abspath(path) not in known]
    return [f"{count(len(left), 'audio file')}, such as {describe(left[0])}, {where}"] if left else []


def folder_files(data: str) -> dict[str, list[str]]:
    """All files of each split, as in datasets."""
    require(("datasets",), "reading folders of clips")
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = datasets.load_dataset_builder("audiofolder", data_dir=escape(data), cache_dir=cache)
        except FileNotFoundError as error:  # datasets.EmptyDatasetError
            raise ValueError(f"{describe(data)}: this folder has no files.") from error
    root = os.path.realpath(data)
    return {
        str(name): sorted(os.path.join(data, os.path.relpath(path, root)) for path in paths)
        for name, paths in builder.config.data_files.items()
    }


def _class_folders(data: str, files: list[str], every: list[str], reading: Reading) -> Rows:
    """Clips whose class is the name of their folder."""
    name = describe(data)
    if reading != Reading():
        raise ValueError(f"{name}: `audio_root`, `path_column` and `label_column` are for tables, not for folders.")
    paths = [path for path in files if is_audio_name(path)]
    tables = [path for path in every if os.path.splitext(path)[1].lower() in TABLE_FORMATS]
    hint = f"; or give the table of labels, such as {describe(tables[0])}." if tables else "."
    if not paths:
        raise ValueError(f"{name}: this folder has no audio files{hint}")
    classes = classes_of(data, paths, lacking=", and there is no metadata.csv", hint=hint)
    if len(set(classes)) == 1 and tables:
        raise ValueError(f"{name}: all clips are in one folder, {classes[0]!r}; make one folder per class{hint}")
    return Rows(name, paths, classes)


def _metadata_rows(data: str, paths: list[str], reading: Reading) -> Rows:
    """The rows of one or several metadata files."""
    tables = [rows_of(path, read_table(path), reading) for path in paths]
    if len({tuple(table.columns) for table in tables}) > 1:
        raise ValueError(f"{describe(data)}: {shown([table.name for table in tables])} have different columns.")
    first = tables[0]
    return Rows(
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


def _without_paths(rows: Rows, unwanted: Iterable[str]) -> Rows:
    left_out = set(map(os.path.abspath, unwanted))
    return rows.select([index for index, path in enumerate(rows.paths) if os.path.abspath(path) not in left_out])
