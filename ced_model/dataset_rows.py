# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Audio of data sets on the Hugging Face Hub, and of local folders with the same layout.

🤗 datasets finds the configuration and the files of each split. The files are read here, without torchcodec or FFmpeg:
Parquet files row by row (those of the Hub are streamed), and folders of audio files directly.
"""

import difflib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import escape, has_magic
from itertools import groupby
from operator import itemgetter
from typing import Any, BinaryIO

from .audio import AUDIO_EXTENSIONS
from .hub import check_dataset_reachable
from .input_list import Input, escape_name
from .labelled.folders import METADATA_FILES
from .labelled.tables import PATH_COLUMNS, Table, label_names, read_table
from .messages import OptionError, RunError, UsageError, one_line, printable
from .packages import require

ALL = "all"
CONVERTED = "refs/convert/parquet"  # the branch in which the Hub keeps a Parquet copy of a data set
HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/[\w.-]+)(@(?P<revision>[^@\s]+))?")
BATCH_ROWS = 8  # rows read from a Parquet file at a time
BUFFER_BYTES = 2**20
THREADS = 8  # for reading the paths of rows, one file each
REMOTE = "hf://"
NUMBER_TYPES = ("int", "uint", "float", "halffloat", "double", "bool")

Encoded = tuple[bytes | None, str | None]  # the content of an audio file and its name, or None and its path


@dataclass(frozen=True)
class DatasetFiles:
    """
    The files of a data set.

    Attributes:
        name: Its folder or Hub id.
        is_table: Whether the files are Parquet files, not audio files.
        splits: The paths of each split; those on the Hub begin with `hf://`.
        features: The column types from the data set's card.
        folder: The folder of local audio files, else empty.
    """

    name: str
    is_table: bool
    splits: dict[str, list[str]]
    features: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    def choose(self, split: str | None, preferred: Iterable[str] = ()) -> str:
        """
        The split with this name, by default the only one or the first of `preferred`.

        Raises:
            OptionError: if there is no such split.
        """
        if split is None:
            split = next((name for name in preferred if name in self.splits), None)
        if split is None and len(self.splits) == 1:
            return next(iter(self.splits))
        if split == ALL or split in self.splits:
            return split
        raise OptionError("split", split, f"{listed(split, self.splits)}, or {ALL}")

    def names(self, split: str) -> list[str]:
        """The split with this name, or all."""
        return [name for name in self.splits if split in (ALL, name)]


def find_dataset(
    dataset: str | os.PathLike[str], config: str | None = None, audio_column: str | None = None
) -> DatasetFiles:
    """
    Finds the files of a data set without downloading them.

    Args:
        dataset: The id of a Hub repository, `owner/name` or `owner/name@revision`, a folder with the same layout, or a
            Parquet file.
        config: Its configuration (subset), if it has several.
        audio_column: The audio column, which only data sets of Parquet files have.

    Raises:
        UsageError: if there is no such data set, or it has files of other kinds.
        RunError: if the Hub cannot be reached.
        MissingPackageError: if datasets is not installed.
    """
    require(("datasets", "pyarrow"), "reading a data set")
    if not isinstance(dataset, str | os.PathLike):
        raise OptionError("dataset", dataset, "the id of a Hub repository (owner/name), a folder or a Parquet file")
    dataset = os.fspath(dataset)
    path = os.path.expanduser(dataset)
    if os.path.isfile(path):
        if not path.lower().endswith(".parquet"):
            raise UsageError(f"{escape_name(dataset)}: a data set is a folder, a Parquet file or a Hub id")
        return DatasetFiles(dataset, True, {"train": [path]})
    id = HUB_ID.fullmatch(dataset)
    if not os.path.isdir(path) and (id is None or dataset.startswith((".", "~"))):
        raise UsageError(f"{escape_name(dataset)}: not a file, a folder or a Hub id (owner/name)")
    config = None if config is None else str(config)
    builder = _builder(dataset, path if os.path.isdir(path) else id, config)
    from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
    from datasets.packaged_modules.parquet.parquet import Parquet

    splits = {str(name): list(map(str, files)) for name, files in (builder.config.data_files or {}).items()}
    if isinstance(builder, Parquet):
        features = {} if builder.info.features is None else builder.info.features.to_dict()
        return DatasetFiles(dataset, True, splits, features)
    if not isinstance(builder, FolderBasedBuilder):
        kind = type(builder).__module__.rpartition(".")[2]
        hint = "; write Parquet files with `to_parquet` of datasets" if kind == "arrow" else ""
        if id is not None and not os.path.isdir(path):
            hint = f"; the Hub may have a copy: {id['id']}@{CONVERTED}"
        raise UsageError(f"{dataset}: {kind} files; expected Parquet files or audio files{hint}")
    if audio_column is not None:
        raise OptionError("audio_column", audio_column, f"no column: {escape_name(dataset)} consists of audio files")
    return DatasetFiles(dataset, False, splits, folder=path if os.path.isdir(path) else "")


def local_files(files: DatasetFiles, splits: Sequence[str]) -> DatasetFiles:
    """Downloads the files of these splits to the Hub's cache, unless they are local."""
    if files.folder or files.is_table:
        return files
    from huggingface_hub import HfFileSystem, snapshot_download
    from huggingface_hub.errors import HTTPError

    found: dict[str, list[Any]] = {
        split: [HfFileSystem().resolve_path(path) for path in files.splits[split]] for split in splits
    }
    every = [path for paths in found.values() for path in paths]
    patterns = [escape(path.path_in_repo) for path in every]
    try:
        folder = snapshot_download(
            every[0].repo_id, repo_type="dataset", revision=every[0].revision, allow_patterns=patterns
        )
    except HTTPError as error:
        raise RunError(f"{files.name}: cannot be downloaded ({one_line(error)[:200]})") from error
    local = {split: [os.path.join(folder, path.path_in_repo) for path in paths] for split, paths in found.items()}
    return DatasetFiles(files.name, False, local, folder=folder)


def _builder(dataset: str, place: str | re.Match[str] | None, config: str | None) -> Any:
    """The builder of 🤗 datasets for a folder, or for the match of a Hub id."""
    import datasets
    from huggingface_hub.errors import HTTPError

    shown = escape_name(dataset)
    with tempfile.TemporaryDirectory() as cache:
        try:
            if isinstance(place, re.Match):
                check_dataset_reachable(place["id"], place["revision"])
                return datasets.load_dataset_builder(place["id"], config, revision=place["revision"])
            return datasets.load_dataset_builder(str(place), config, cache_dir=cache)
        except datasets.exceptions.DatasetNotFoundError as error:
            raise UsageError(f"{shown}: {_not_found(one_line(error))}") from error
        except FileNotFoundError as error:  # such as EmptyDatasetError
            reason = "it contains no files of a data set"
            if has_magic(os.path.realpath(dataset)):
                reason += ", or its path is a pattern for datasets: rename folders with * ? [ ]"
            raise UsageError(f"{shown}: {reason}") from error
        except ValueError as error:
            names = re.findall(r"'([^']*)'", str(error).partition("[")[2].partition("]")[0])
            if names and "onfig" in str(error):
                raise OptionError("config", config, listed(config, names)) from error
            raise UsageError(f"{shown}: {one_line(error)[:300]}") from error
        except (OSError, HTTPError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # such as a full disk
                raise
            reason = "there is no such folder, and the Hugging Face Hub cannot be reached"
            raise RunError(f"{shown}: {reason} ({one_line(error)[:200]})") from error


def _not_found(text: str) -> str:
    if "gated" in text:
        return "access is restricted: request it on the page of the data set, then run `hf auth login`"
    if "evision" in text:
        return text
    return (
        "there is no such folder, and on the Hugging Face Hub it does not exist or is private: check the name, or log"
        " in with `hf auth login`"
    )


def listed(value: Any, names: Iterable[str]) -> str:
    """The names to choose from, the most similar one first."""
    names = list(names)
    close = difflib.get_close_matches("" if value is None else str(value), names, n=1, cutoff=0.5)
    rest = [name for name in names if name not in close]
    shown = ", ".join(map(printable, [*close, *rest][:12]))
    return shown + (", …" if len(names) > 12 else "")


def audio_inputs(files: DatasetFiles, split: str) -> list[Input]:
    """The audio files of a split: those in its metadata, or all; names are relative to the data set's folder."""
    is_remote = not files.folder
    files = local_files(files, files.names(split))
    chosen = [path for name in files.names(split) for path in files.splits[name]]
    found: list[str] = []
    for metadata in (path for path in chosen if os.path.basename(path) in METADATA_FILES):
        table = read_table(metadata)
        column = next((name for name in PATH_COLUMNS if name in table), None)
        names = map(str, table[column]) if column is not None else ()
        found += [os.path.join(os.path.dirname(metadata), name) for name in names]
    if is_remote:  # metadata from the Hub must not refer to files outside of it
        known = set(chosen)
        found = [path for path in found if path in known]
    found = found or [path for path in chosen if os.path.splitext(path)[1].lower() in AUDIO_EXTENSIONS]
    if not found:
        raise UsageError(f"{escape_name(files.name)}: split {split} has no audio files")
    return [Input(escape_name(os.path.relpath(path, os.path.abspath(files.folder))), path) for path in found]


def dataset_inputs(
    dataset: str | os.PathLike[str],
    split: str | None = None,
    *,
    config: str | None = None,
    audio_column: str | None = None,
) -> Iterator[Any]:
    """
    Yields the audio of a data set, row by row, as in `tagger.tag(dataset_inputs("owner/name", split="test"))`.

    Args:
        dataset: The id of a Hub repository, `owner/name` or `owner/name@revision`; a local folder of the same layout;
            or a Parquet file. Parquet files on the Hub are streamed; audio files are downloaded to its cache.
        split: The split, or `"all"`; by default the only one.
        config: The configuration, if there are several.
        audio_column: The audio column, by default the only one.

    Yields:
        `{"bytes": the content of a file, "path": the row's name}`, or the path of an audio file.

    Raises:
        ValueError: for a data set, split or column that does not exist.
        RunError: if the Hub cannot be reached, or a file cannot be read.
        ImportError: if the extra `[datasets]` is not installed.
    """
    files = find_dataset(dataset, config, audio_column)
    chosen = files.choose(split)
    if not files.is_table:
        return (item.source for item in audio_inputs(files, chosen))
    rows = DatasetRows(files, chosen, audio_column)
    return (item.source for item in rows.fill(rows.inputs()))


# Parquet


class DatasetRows:
    """
    The rows of a split of a data set of Parquet files.

    Args:
        files: The data set.
        split: One of its splits, or `"all"`.
        audio_column: The audio column, by default the only one, or the one named `audio`.

    Attributes:
        names: Names of the rows: the path of the audio if it is unique, else `split:index`.
        places: Split of each row and its index there.
        columns: The other columns; `numbers` are the numeric ones.

    Raises:
        OptionError: for an unknown column.
        UsageError: if there is no audio column.
        RunError: if a file cannot be read.
    """

    def __init__(self, files: DatasetFiles, split: str, audio_column: str | None = None) -> None:
        self.files = files
        self.shards = [(name, path) for name in files.names(split) for path in files.splits[name]]
        self._features = dict(files.features)
        self._groups: list[tuple[int, int, int]] = []  # shard, row group and rows
        self.audio_column, self.columns, self.numbers = "", list[str](), list[str]()
        self.places: list[tuple[str, int]] = []
        with _parquet(self.shards[0][1]) as table:
            self._choose_columns(table.schema_arrow, audio_column)
        paths: list[str | None] = []
        counts: Counter[str] = Counter()
        with ThreadPoolExecutor(THREADS) as pool:
            for shard, groups in enumerate(pool.map(self._paths, [path for _, path in self.shards])):
                name = self.shards[shard][0]
                for group, of_group in enumerate(groups):
                    self._groups.append((shard, group, len(of_group)))
                    self.places += [(name, counts[name] + row) for row in range(len(of_group))]
                    counts[name] += len(of_group)
                    paths += of_group
        repeated = Counter(paths)
        self.names = [
            escape_name(path) if path and repeated[path] == 1 else f"{split}:{index}"
            for path, (split, index) in zip(paths, self.places, strict=True)
        ]
        if not self.names:
            raise UsageError(f"{files.name}: split {split} has no rows")

    def __len__(self) -> int:
        return len(self.names)

    def _choose_columns(self, schema: Any, wanted: str | None) -> None:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))  # written by datasets
        self._features = described.get("info", {}).get("features", {}) | self._features
        audio = [name for name in schema.names if self._is_audio(schema.field(name))]
        if wanted is None:
            usual = [name for name in ("audio", *audio) if name in audio]
            if not usual:
                types = [f"{name} ({schema.field(name).type})" for name in schema.names]
                raise UsageError(f"{self.files.name}: no column of audio with its bytes; it has {listed(None, types)}")
            wanted = usual[0]
            if len(audio) > 1 and wanted != "audio":
                raise OptionError("audio_column", None, listed(None, audio))
        elif wanted not in schema.names:
            raise OptionError("audio_column", wanted, listed(wanted, audio or schema.names))
        elif wanted not in audio:
            raise OptionError("audio_column", wanted, f"a column of audio: {listed(wanted, audio) or 'there is none'}")
        self.audio_column = wanted
        self.columns = [name for name in schema.names if name not in audio]
        self.numbers = [name for name in self.columns if str(schema.field(name).type).startswith(NUMBER_TYPES)]

    def _is_audio(self, column: Any) -> bool:
        import pyarrow as pa

        feature = self._features.get(column.name)
        kind = feature.get("_type", "Value") if isinstance(feature, dict) else "Value"  # a struct has no type
        if kind not in ("Audio", "Value"):
            return False
        if pa.types.is_struct(column.type):
            return column.type.get_field_index("bytes") >= 0
        return str(column.type) in ("binary", "large_binary", "binary_view")

    def _paths(self, shard: str) -> list[list[str | None]]:
        """The paths that a file has for its rows' audio, by row group; no audio is read."""
        leaf = f"{self.audio_column}.path"
        with _parquet(shard) as table:
            if self.audio_column not in table.schema_arrow.names:
                raise UsageError(
                    f"{printable(shard)}: no column {printable(self.audio_column)!r}, unlike the first file"
                )
            if leaf not in [table.schema.column(index).path for index in range(len(table.schema))]:
                return [[None] * table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            columns = [table.read_row_group(group, [leaf])[self.audio_column] for group in range(table.num_row_groups)]
            return [[value and value["path"] for value in column.to_pylist()] for column in columns]

    def rows_of_shard(self, shard: int) -> range:
        """Indices of the rows of a file."""
        counts = [sum(rows for number, _, rows in self._groups if number < limit) for limit in (shard, shard + 1)]
        return range(*counts)

    def place(self, index: int) -> str:
        """The place of a row, for messages."""
        split, row = self.places[index]
        return f"row {row} of {split}, column {printable(self.audio_column)!r}"

    def inputs(self) -> list[Input]:
        """One input per row, without the audio, which [`DatasetRows.fill`] adds."""
        return [Input(name, index, place=self.place(index)) for index, name in enumerate(self.names)]

    def fill(self, inputs: Iterable[Input]) -> Iterator[Input]:
        """Yields inputs in the order of their rows, with their audio, which is read lazily."""
        wanted = {item.source: item for item in inputs}
        for index, audio in self.audio(wanted):
            item = wanted.pop(index)
            yield replace(item, source={"bytes": audio[0], "path": audio[1]})

    def audio(self, wanted: Container[int] | None = None) -> Iterator[tuple[int, Encoded]]:
        """Yields indices of rows, all or those in `wanted`, with the bytes of the audio file or else its path."""
        start = 0
        for shard, groups in groupby(self._groups, key=itemgetter(0)):
            asked = []  # row groups to read, with the index of their first row
            for _, group, rows in groups:
                if wanted is None or any(index in wanted for index in range(start, start + rows)):
                    asked.append((group, start))
                start += rows
            if not asked:
                continue
            with _parquet(self.shards[shard][1]) as table:
                for group, first in asked:
                    batches = table.iter_batches(BATCH_ROWS, row_groups=[group], columns=[self.audio_column])
                    for index, value in enumerate((value for batch in batches for value in batch.column(0)), first):
                        if wanted is None or index in wanted:
                            yield index, self._encoded(value.as_py(), index, shard)

    def _encoded(self, value: Any, index: int, shard: int) -> Encoded:
        content, path = (value["bytes"], value.get("path")) if isinstance(value, dict) else (value, None)
        if content is not None or path is None:
            return content, None if content is None else self.names[index]
        folder = os.path.dirname(self.shards[shard][1])
        beside = os.path.join(folder, path)
        if folder.startswith(REMOTE):  # rows from the Hub must not refer to local files
            return None, f"{folder}/{path}"
        return None, beside if os.path.exists(beside) else path

    def cells(self, columns: Iterable[str]) -> Table:
        """The values of other columns; class labels as names."""
        columns = list(columns)
        values: Table = {name: [] for name in columns}
        for _, path in self.shards:
            with _parquet(path) as table:
                read = table.read(columns=columns)
                for name in columns:
                    values[name] += read[name].to_pylist()
        return {name: label_names(self._features.get(name), column) for name, column in values.items()}


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """An open `pyarrow.parquet.ParquetFile`."""
    from huggingface_hub.errors import HTTPError
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with _opened(path) as file, ParquetFile(file, buffer_size=BUFFER_BYTES) as table:
            yield table
    except (ArrowException, OSError, HTTPError) as error:
        raise RunError(f"{printable(path)}: {getattr(error, 'strerror', None) or one_line(error)[:300]}") from error


def _opened(path: str) -> BinaryIO:
    if not path.startswith(REMOTE):
        return open(path, "rb")
    from huggingface_hub import HfFileSystem

    return HfFileSystem().open(path, "rb")
