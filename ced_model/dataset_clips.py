# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Labelled clips from the rows of a data set: read directly for evaluation, or written to files for training.

The files are kept in the cache of 🤗 datasets (`HF_DATASETS_CACHE`), in one folder per Parquet file, so that later runs
can use them and an interrupted run can be continued.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .audio import AUDIO_EXTENSIONS
from .dataset_rows import ALL, REMOTE, DatasetFiles, DatasetRows, audio_inputs, find_dataset, listed
from .input_list import Input
from .labelled import LabelledClips
from .labelled.read import clips_of
from .labelled.tables import LABEL_COLUMNS, SPLIT_COLUMN, Reading, Table, rows_of
from .messages import OptionError, UsageError
from .output import write_file

FILE_COLUMN = "file_name"
FILES = "files.json"


def labelled_rows(
    rows: DatasetRows, model_labels: Sequence[str], *, label_column: str | None = None, separator: str = ";"
) -> LabelledClips:
    """
    The labels of the rows, as clips with the rows' names as paths. No audio is read.

    Args:
        rows: The rows.
        model_labels: The classes; integers without names are indices of these.
        label_column: The column of labels, by default one with a usual name, or one column per class.
        separator: Separates classes in a text.

    Raises:
        ValueError: in one line, if labels are missing or unknown.
    """
    table = label_table(rows, label_column)
    for name, values in table.items():
        if name == label_column or name.lower() in LABEL_COLUMNS:
            table[name] = [_by_index(rows, row, name, value, model_labels) for row, value in enumerate(values)]
    found = rows_of(rows.files.name, {FILE_COLUMN: rows.names, **table}, Reading("", FILE_COLUMN, label_column))
    found.paths = list(rows.names)
    return clips_of(found, separator, model_classes=model_labels)


def read_rows(rows: DatasetRows, names: Iterable[str]) -> Iterable[Input]:
    """Inputs for the rows with these names, in the order of the rows."""
    wanted = set(names)
    return rows.fill(item for item in rows.inputs() if item.name in wanted)


def label_table(rows: DatasetRows, label_column: str | None) -> Table:
    """The column of labels, or else all columns that may be classes."""
    if label_column is not None and label_column not in rows.columns:
        raise OptionError("label_column", label_column, listed(label_column, rows.columns) or "none: only audio")
    lowered = {name.lower(): name for name in reversed(rows.columns)}
    usual = next((lowered[name] for name in LABEL_COLUMNS if name in lowered), None)
    chosen = label_column or usual
    table = rows.cells([chosen] if chosen is not None else rows.numbers)
    if not table:
        columns = listed(None, rows.columns) or "no other column"
        raise UsageError(
            f"{rows.files.name}: no column of labels ({', '.join(LABEL_COLUMNS[:4])}, …); it has {columns}"
        )
    return table


def _by_index(rows: DatasetRows, row: int, column: str, value: Any, labels: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_by_index(rows, row, column, item, labels) for item in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 0 <= value < len(labels):
        place = f"{rows.place(row).partition(',')[0]}, column {column!r}"
        raise UsageError(f"{rows.files.name}: {place}: {value} is not an index of the model's {len(labels)} classes")
    return labels[value]


# Files


def unpack(rows: DatasetRows, say: Callable[[str], object]) -> list[str]:
    """Writes the audio of the rows to files, unless they exist, and returns their paths."""
    root = _cache() / _file_name(rows.files.name)
    folders = [
        root / _digest(f"{path} {_version(path)}") / _file_name(split) / _file_name(rows.audio_column)
        for split, path in rows.shards
    ]
    missing = [number for number, folder in enumerate(folders) if not (folder / FILES).exists()]
    if missing:
        say(f"writing the audio of {rows.files.name} to {root}")
    for number in missing:
        _unpack_shard(rows, number, folders[number])
    return [os.path.join(folder, file) for folder in folders for file in json.loads((folder / FILES).read_bytes())]


def _unpack_shard(rows: DatasetRows, shard: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, (content, path) in rows.audio(rows.rows_of_shard(shard)):
        if content is None and path is not None:
            files.append(os.path.abspath(path))
            continue
        suffix = os.path.splitext(rows.names[index])[1].lower()
        files.append(f"{rows.places[index][1]}{suffix if suffix in AUDIO_EXTENSIONS else ''}")
        write_file(folder / files[-1], content or b"")  # an empty file is reported when it is read
    write_file(folder / FILES, json.dumps(files).encode())


def _cache() -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE, "ced_model").absolute()


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "--", text).strip("-.") or "data"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _version(path: str) -> str:
    """A text that changes with the content of a file; paths of the Hub have a revision."""
    if path.startswith(REMOTE):
        return ""
    status = os.stat(path)
    return f"{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}"


def unpack_table(
    files: DatasetFiles,
    splits: Sequence[str],
    *,
    audio_column: str | None,
    label_column: str | None,
    say: Callable[[str], object],
) -> str:
    """Writes the audio of these splits to files, and a table of the clips for [`read_labelled`]; returns its path."""
    lines = []
    for split in splits:
        rows = DatasetRows(files, split, audio_column)
        table = label_table(rows, label_column)
        for index, path in enumerate(unpack(rows, say)):
            cells = {name: values[index] for name, values in table.items()}
            lines.append(json.dumps(cells | {FILE_COLUMN: path, SPLIT_COLUMN: rows.places[index][0]}) + "\n")
    content = "".join(lines)
    name = _file_name(files.name)
    table_file = _cache() / name / _digest(content) / f"{name}.jsonl"
    table_file.parent.mkdir(parents=True, exist_ok=True)
    write_file(table_file, content.encode())
    return str(table_file)


def dataset_files(
    dataset: str, config: str | None, split: str | None, audio_column: str | None, say: Callable[[str], object]
) -> list[str]:
    """Paths of the audio files of a data set, by default of its training split."""
    files = find_dataset(dataset, config, audio_column)
    chosen = files.choose(split, ["train"])
    if not files.is_table:
        return [item.source for item in audio_inputs(files, chosen)]
    return unpack(DatasetRows(files, chosen, audio_column), say)


def training_splits(
    files: DatasetFiles, split: str | None, usual: Sequence[str], validation: Sequence[str]
) -> list[str]:
    """The split for training, and the one for validation if there is one."""
    chosen = files.choose(split, usual)
    if chosen == ALL:
        return [ALL]
    return [chosen, *[name for name in files.splits if name != chosen and name.lower() in validation][:1]]
