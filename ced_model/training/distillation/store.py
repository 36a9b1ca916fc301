# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The store: what the teachers said of each chunk in each epoch, 84 bytes before compression.

A folder:

    manifest.json       who taught what, and how: see `Store`
    chunks.parquet      where each chunk is in the audio: path, start, num_samples, crc32
    shards/*.parquet    chunk, epoch, seed, values, indices: a shard holds one epoch of a range of chunks

A shard comes into being whole or not at all, so that a run that was killed goes on with the shards that are missing.

The manifest has the checksum of `chunks.parquet`. Each shard carries its own, over its rows and the manifest's entries
on teachers and inputs: processes on several machines make shards at the same time, and none changes the manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ...messages import one_line
from ...output import write_file
from .augmentation import Augmentation

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = "ced distillation store"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # stores of version 1 have no checksums: only the ranges of their values are checked
MANIFEST = "manifest.json"
CHUNKS = "chunks.parquet"
SHARDS = "shards"
DEFAULT_SHARD_CHUNKS = 1024  # 60 to 80 kB
MAX_CLASSES = 2**15  # an index is an int16
MAX_SHARDS = 4_000_000  # twenty times those of two million clips in 120 epochs
CHECKSUM = b"ced_checksum"  # its key in the metadata of a shard
# What the manifest says that decides a shard's rows. Epochs may be added, and the audio may move.
IDENTITY = ("teachers", "labels", "augmentation", "front_end", "seed", "top_k", "shard_chunks", "chunks_checksum")

CHUNKS_SCHEMA = pa.schema(
    [("path", pa.string()), ("start", pa.int64()), ("num_samples", pa.int32()), ("crc32", pa.uint32())]
)


class Chunk(NamedTuple):
    """
    A piece of an audio file.

    Attributes:
        path: The file, relative to the audio's root, with `/`.
        start: First sample, at 16 kHz.
        num_samples: Length in samples, at 16 kHz.
        crc32: Checksum of the samples as little-endian float32, by which a changed file is noticed.
    """

    path: str
    start: int
    num_samples: int
    crc32: int


class Shard(NamedTuple):
    """An epoch of the chunks `[start, stop)`: the unit of work."""

    epoch: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """Sorted by name, shards are in the order of epochs and chunks."""
        return f"epoch-{self.epoch:06d}-chunk-{self.start:010d}.parquet"


class ShardRows(NamedTuple):
    """
    The rows of a shard.

    Attributes:
        seeds: int32 of shape `(chunks,)`.
        values: The highest probabilities, falling; float16 of shape `(chunks, k)`.
        indices: Their classes, int16 of shape `(chunks, k)`.
    """

    seeds: np.ndarray
    values: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True)
class Store:
    """
    A store on disk, as `open_store` found it.

    Attributes:
        path: Its folder.
        manifest: What `manifest.json` says: the `teachers` and how masks were applied to each, `labels`,
            `augmentation`, CED's `front_end`, the store's `seed`, `top_k`, `num_epochs`, `num_chunks`, `shard_chunks`,
            the `audio` with what was skipped, and `versions`.
        chunks: The table of chunks, whose columns are the fields of `Chunk`; the row is the chunk's number.
        missing: The shards that are still to be made; none of a finished store.
    """

    path: Path
    manifest: dict[str, Any]
    chunks: pa.Table
    missing: tuple[Shard, ...]

    @property
    def labels(self) -> list[str]:
        return self.manifest["labels"]

    @cached_property
    def augmentation(self) -> Augmentation:
        return Augmentation.from_dict(self.manifest["augmentation"])

    @property
    def seed(self) -> int:
        return self.manifest["seed"]

    @property
    def num_epochs(self) -> int:
        return self.manifest["num_epochs"]

    @property
    def num_chunks(self) -> int:
        return self.manifest["num_chunks"]

    @property
    def audio_root(self) -> Path:
        """The folder that the chunks' paths are relative to, where the audio was when it was taught."""
        return Path(self.manifest["audio"]["root"])

    def chunk(self, index: int) -> Chunk:
        """A chunk by its number, from 0."""
        return Chunk(*(self.chunks[name][index].as_py() for name in Chunk._fields))

    def shards(self) -> list[Shard]:
        """All shards of the finished store, in their order."""
        return list(plan_shards(self.num_epochs, self.num_chunks, self.manifest["shard_chunks"]))

    def dataset(self, **kwargs: Any) -> "Dataset":
        """
        What the teachers said, as a `datasets.Dataset` that is mapped into memory.

        Args:
            kwargs: Passed on to `Dataset.from_parquet`, for example `keep_in_memory=True`.

        Returns:
            The columns `chunk` (int32), `epoch` (int32), `seed` (int32), `values` (k × float16, falling) and `indices`
            (k × int16), in the order of epochs and, in an epoch, of chunks.
        """
        from datasets import Dataset

        files = [str(self.path / SHARDS / shard.file_name) for shard in self.shards() if shard not in set(self.missing)]
        return Dataset.from_parquet(files, **kwargs)


def open_store(path: str | os.PathLike, *, allow_unfinished: bool = False) -> Store:
    """
    A store with every shard checked: its checksum, its place in the store, and that it holds probabilities of classes.

    Args:
        allow_unfinished: Whether a store that is not complete may be opened; `Store.missing` has what it lacks.

    Raises:
        ValueError: if there is no store, if it is of another format, if a shard is corrupt (named), or if it is
            unfinished (how many shards are there, and how to go on).
    """
    path = Path(path)
    manifest = read_manifest(path)
    chunks = read_chunks(path, manifest)
    missing = []
    total = 0
    for shard in plan_shards(manifest["num_epochs"], manifest["num_chunks"], manifest["shard_chunks"]):
        total += 1
        if not (path / SHARDS / shard.file_name).is_file():
            missing.append(shard)
            continue
        read_shard(path, shard, manifest)
    if missing and not allow_unfinished:
        raise ValueError(
            f"{path}: unfinished: {total - len(missing)} of {total} shards are there. Run the `ced distill teach` that"
            " began it again: it makes the rest."
        )
    return Store(path, manifest, chunks, tuple(missing))


def restore_probabilities(
    values: torch.Tensor | np.ndarray,
    indices: torch.Tensor | np.ndarray,
    num_labels: int,
    leftover: Literal["zero", "even"] = "zero",
) -> torch.Tensor:
    """
    Stored values as probabilities of all classes.

    Args:
        values: The highest probabilities, of shape `(batch, k)`.
        indices: Their classes, of shape `(batch, k)`.
        leftover: What the other classes get: `"zero"`, or `"even"`: each its part of what the stored ones lack to a sum
            of 1, for teachers whose probabilities sum to 1.

    Returns:
        float32 of shape `(batch, num_labels)`, on the device of `values`.

    Raises:
        ValueError: if `leftover` is neither, if shapes differ, or if an index is no class.
    """
    values = torch.as_tensor(values).float()
    indices = torch.as_tensor(indices, device=values.device).long()
    if values.ndim != 2 or values.shape != indices.shape:
        raise ValueError(
            f"`values` and `indices` must both be of shape (batch, k), got {tuple(values.shape)} and"
            f" {tuple(indices.shape)}."
        )
    if leftover not in ("zero", "even"):
        raise ValueError(f'`leftover` must be "zero" or "even", got {leftover!r}.')
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < num_labels:
        raise ValueError(f"`indices` go from {indices.min()} to {indices.max()}, but there are {num_labels} classes.")
    batch, k = values.shape
    dense = values.new_zeros(batch, num_labels)
    if leftover == "even" and num_labels > k:
        dense += (1 - values.sum(dim=1, keepdim=True)).clamp(min=0) / (num_labels - k)
    return dense.scatter_(1, indices, values)


def top_probabilities(probabilities: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """
    What is stored of `(batch, classes)` probabilities: the highest `k`, falling; of equal ones the first class.

    Returns:
        float16 values and int16 indices, both of shape `(batch, k)`.
    """
    indices = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(probabilities, indices, axis=1).astype(np.float16), indices.astype(np.int16)


# The parts of a store


def plan_shards(num_epochs: int, num_chunks: int, shard_chunks: int) -> Iterator[Shard]:
    for epoch in range(num_epochs):
        for start in range(0, num_chunks, shard_chunks):
            yield Shard(epoch, start, min(start + shard_chunks, num_chunks))


def top_k_of(manifest: Mapping[str, Any]) -> int:
    """Values in a row: `top_k`, or all classes if there are fewer."""
    return min(manifest["top_k"], len(manifest["labels"]))


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises ValueError if the folder `path` has no manifest of a store that this version can read."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path}: no store: there is no {MANIFEST}. `ced distill teach` makes a store.") from error
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{file}: corrupt: {one_line(error).rstrip('.')}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{file}: not the manifest of a distillation store.")
    version = manifest.get("format_version")
    if version not in READABLE_VERSIONS:
        raise ValueError(
            f"{path}: a store of format version {one_line(version)}; this version of ced_model reads"
            f" {' and '.join(map(str, READABLE_VERSIONS))}."
        )
    wrong = _wrong_entry(manifest)
    if wrong is not None:
        raise ValueError(f"{file}: corrupt: it lacks `{wrong}`, or that is not what it should be.")
    return manifest


def _wrong_entry(manifest: Mapping[str, Any]) -> str | None:
    for name in ("num_epochs", "num_chunks", "shard_chunks", "top_k"):
        if type(manifest.get(name)) is not int or not 0 < manifest[name] < 2**31:
            return name
    labels, audio = manifest.get("labels"), manifest.get("audio")
    if manifest["num_epochs"] * -(-manifest["num_chunks"] // manifest["shard_chunks"]) > MAX_SHARDS:
        return "num_epochs"
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        return "labels"
    if not isinstance(manifest.get("teachers"), list):
        return "teachers"
    if type(manifest.get("seed")) is not int:
        return "seed"
    if not isinstance(audio, dict) or not isinstance(audio.get("root"), str):
        return "audio"
    if manifest["format_version"] > 1 and not isinstance(manifest.get("chunks_checksum"), str):
        return "chunks_checksum"
    try:
        Augmentation.from_dict(manifest["augmentation"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return "augmentation"
    return None


def write_manifest(path: Path, manifest: Mapping[str, Any], replace: bool = True) -> None:
    text = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **manifest}, indent=2, ensure_ascii=False)
    write_file(path / MANIFEST, (text + "\n").encode(), replace)


def read_chunks(path: Path, manifest: Mapping[str, Any]) -> pa.Table:
    """The table of chunks; raises ValueError if it is damaged, or not the one that the store was begun with."""
    file = path / CHUNKS
    try:
        content = file.read_bytes()
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: corrupt: {one_line(error).rstrip('.')}.") from error
    if not table.schema.equals(CHUNKS_SCHEMA):
        raise ValueError(f"{file}: corrupt: it has the columns {one_line(table.schema.names)}.")
    if len(table) != manifest["num_chunks"]:
        raise ValueError(f"{file}: corrupt: {len(table)} chunks, the manifest has {manifest['num_chunks']}.")
    if manifest["format_version"] > 1 and _checksum(content) != manifest["chunks_checksum"]:
        raise ValueError(
            f"{file}: corrupt: its checksum is not the one in {MANIFEST}. Take both files from a copy of the store, or"
            " make a new store with `ced distill teach`."
        )
    longest = Augmentation.from_dict(manifest["augmentation"]).chunk_samples
    starts, lengths = (table[name].to_numpy() for name in ("start", "num_samples"))
    if any(column.null_count for column in table.columns) or starts.min() < 0 or not 0 < lengths.min():
        raise ValueError(f"{file}: corrupt: it has chunks without a path, or without samples.")
    if lengths.max() > longest:
        raise ValueError(
            f"{file}: corrupt: a chunk has {lengths.max():,} samples; the store's have {longest:,} at most."
        )
    return table


def write_chunks(path: Path, chunks: Iterable[Chunk]) -> str:
    """Writes the table of chunks; returns its checksum, for the manifest's `chunks_checksum`."""
    columns = list(zip(*chunks, strict=True))
    content = _parquet_bytes(pa.table(columns, schema=CHUNKS_SCHEMA))
    write_file(path / CHUNKS, content)
    return _checksum(content)


def write_shard(path: Path, shard: Shard, rows: ShardRows, manifest: Mapping[str, Any]) -> None:
    """
    Writes a shard of the store `path`, whole or not at all, with its checksum.

    Raises:
        ValueError: if the rows hold what no teacher may say: see `open_store`.
    """
    problem = _range_problem(rows, len(manifest["labels"]))
    if problem is not None:
        raise ValueError(f"{path / SHARDS / shard.file_name}: not written: {problem}.")
    k = rows.values.shape[1]
    table = pa.table(
        {
            "chunk": pa.array(np.arange(shard.start, shard.stop), pa.int32()),
            "epoch": pa.array(np.full(shard.stop - shard.start, shard.epoch), pa.int32()),
            "seed": pa.array(rows.seeds, pa.int32()),
            "values": pa.FixedSizeListArray.from_arrays(pa.array(rows.values.ravel()), k),
            "indices": pa.FixedSizeListArray.from_arrays(pa.array(rows.indices.ravel()), k),
        },
        schema=shard_schema(k).with_metadata({CHECKSUM: _rows_checksum(shard, rows, manifest)}),
    )
    # The high bytes of float16 and int16 next to each other compress far better: 60 bytes a row for 72.
    encodings = {
        "chunk": "DELTA_BINARY_PACKED",
        "values.list.element": "BYTE_STREAM_SPLIT",
        "indices.list.element": "BYTE_STREAM_SPLIT",
    }
    write_file(path / SHARDS / shard.file_name, _parquet_bytes(table, column_encoding=encodings, use_dictionary=False))


def read_shard(path: Path, shard: Shard, manifest: Mapping[str, Any]) -> ShardRows:
    """The rows of a shard of the store `path`, checked as `open_store` says; raises its ValueError."""
    try:
        return _read_rows(path / SHARDS / shard.file_name, shard, manifest)
    except ValueError as error:
        raise ValueError(
            f"{path / SHARDS / shard.file_name}: corrupt shard: {error}. Run the `ced distill teach` that made"
            " the store again: it makes this shard anew."
        ) from error


def shard_schema(k: int) -> pa.Schema:
    return pa.schema(
        [
            ("chunk", pa.int32()),
            ("epoch", pa.int32()),
            ("seed", pa.int32()),
            ("values", pa.list_(pa.float16(), k)),
            ("indices", pa.list_(pa.int16(), k)),
        ]
    )


def find_damage(path: Path, shard: Shard, manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with a shard's file; None if nothing is."""
    try:
        _read_rows(path / SHARDS / shard.file_name, shard, manifest)
    except ValueError as error:
        return str(error)
    return None


def _read_rows(file: Path, shard: Shard, manifest: Mapping[str, Any]) -> ShardRows:
    """The rows of a shard; raises ValueError with what is wrong with them."""
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(one_line(error).rstrip(".")) from error
    if not table.schema.equals(shard_schema(top_k_of(manifest))):
        raise ValueError(
            "its columns are " + one_line(", ".join(f"{field.name} {field.type}" for field in table.schema))
        )
    values, indices = (table[name].combine_chunks() for name in ("values", "indices"))
    if any(column.null_count for column in (*table.columns, values.flatten(), indices.flatten())):
        raise ValueError("it has empty cells")
    if not np.array_equal(table["chunk"].to_numpy(), np.arange(shard.start, shard.stop)):
        raise ValueError(f"it does not hold the chunks {shard.start} to {shard.stop - 1}")
    if not (table["epoch"].to_numpy() == shard.epoch).all():
        raise ValueError(f"it is not of epoch {shard.epoch}")
    rows = ShardRows(
        seeds=table["seed"].to_numpy(),
        values=values.flatten().to_numpy().reshape(len(table), -1),
        indices=indices.flatten().to_numpy().reshape(len(table), -1),
    )
    problem = _range_problem(rows, len(manifest["labels"]))
    if problem is not None:
        raise ValueError(problem)
    checksum = (table.schema.metadata or {}).get(CHECKSUM)
    if checksum is None and manifest["format_version"] > 1:
        raise ValueError("it has no checksum: another program wrote it")
    if checksum is not None and checksum.decode("ascii", "replace") != _rows_checksum(shard, rows, manifest):
        raise ValueError("its checksum is not that of its rows in this store: it was changed, or is of another store")
    return rows


def _range_problem(rows: ShardRows, num_labels: int) -> str | None:
    """What is wrong with rows that are not falling probabilities of different classes; None if nothing is."""
    values, indices = rows.values.astype(np.float32), rows.indices
    if not np.isfinite(values).all():
        return "it holds probabilities that are not finite"
    if values.min() < 0 or values.max() > 1:
        return f"it holds probabilities from {values.min():g} to {values.max():g}"
    if (np.diff(values, axis=1) > 0).any():
        return "its probabilities do not fall"
    if indices.min() < 0 or indices.max() >= num_labels:
        return f"it holds classes from {indices.min()} to {indices.max()}, but there are {num_labels}"
    if (np.diff(np.sort(indices, axis=1), axis=1) == 0).any():
        return "it holds a class twice in a row"
    return None


def _rows_checksum(shard: Shard, rows: ShardRows, manifest: Mapping[str, Any]) -> str:
    identity = [[manifest.get(name) for name in IDENTITY], shard]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for array, dtype in zip(rows, ("<i4", "<f2", "<i2"), strict=True):
        digest.update(np.ascontiguousarray(array, dtype).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    # Through memory: what Arrow raises when a disk is full names neither the file nor always the reason.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, **options)
    return sink.getvalue().to_pybytes()
