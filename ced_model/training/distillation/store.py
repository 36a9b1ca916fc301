# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The store: a folder with the teachers' outputs for each chunk in each epoch (84 bytes before compression).

    manifest.json       teachers, labels, augmentation, audio: see `Store`
    chunks.parquet      position of each chunk in the audio: path, start, num_samples, crc32
    shards/*.parquet    chunk, epoch, seed, values, indices: one epoch of a range of chunks per shard

Shards are written atomically, so an interrupted run continues with those that are missing.

The manifest has the checksum of `chunks.parquet`. Each shard has its own checksum, of its rows and the manifest's
entries on teachers and inputs: processes on several machines can write shards at the same time, without changing the
manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
CHUNKS = "chunks.parquet"
SHARDS = "shards"
DEFAULT_SHARD_CHUNKS = 1024  # 60 to 80 kB
MAX_CLASSES = 2**15  # an index is an int16
MAX_SHARDS = 4_000_000  # twenty times that of two million clips in 120 epochs
CHECKSUM = b"ced_checksum"  # its key in the metadata of a shard
# The manifest's entries that a shard's rows depend on. Epochs may be added, and the audio may be moved.
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
        crc32: Checksum of the samples as little-endian float32, to detect changed files.
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
        """The name of its file. In alphabetical order, shards are ordered by epoch and chunk."""
        return f"epoch-{self.epoch:06d}-chunk-{self.start:010d}.parquet"


class ShardRows(NamedTuple):
    """
    The rows of a shard.

    Attributes:
        seeds: int32 of shape `(chunks,)`.
        values: The highest probabilities in descending order, float16 of shape `(chunks, k)`.
        indices: Their classes, int16 of shape `(chunks, k)`.
    """

    seeds: np.ndarray
    values: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True)
class Store:
    """
    A store, opened by [`open_store`].

    Attributes:
        path: Its folder.
        manifest: The content of `manifest.json`: the `teachers` and how masks were applied to each, `labels`,
            `augmentation`, CED's `front_end`, the store's `seed`, `top_k`, `num_epochs`, `num_chunks`, `shard_chunks`,
            the `audio` with skipped files, and `versions`.
        chunks: The table of chunks, with the fields of [`Chunk`] as columns. Chunks are referred to by their row.
    """

    path: Path
    manifest: dict[str, Any]
    chunks: pa.Table

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
        """The folder that the chunks' paths are relative to, at the time of teaching."""
        return Path(self.manifest["audio"]["root"])

    def chunk(self, index: int) -> Chunk:
        """The chunk with this index."""
        return Chunk(*(self.chunks[name][index].as_py() for name in Chunk._fields))

    def shards(self) -> list[Shard]:
        """All shards, ordered by epoch and chunk."""
        size, chunks = self.manifest["shard_chunks"], self.num_chunks
        starts = range(0, chunks, size)
        return [Shard(epoch, start, min(start + size, chunks)) for epoch in range(self.num_epochs) for start in starts]

    def dataset(self, **kwargs: Any) -> "Dataset":
        """
        The teachers' outputs, as a memory-mapped `datasets.Dataset`.

        Args:
            kwargs: Passed to `Dataset.from_parquet`, for example `keep_in_memory=True`.

        Returns:
            The columns `chunk` (int32), `epoch` (int32), `seed` (int32), `values` (k × float16, descending) and
            `indices` (k × int16), ordered by epoch and chunk.
        """
        from datasets import Dataset

        return Dataset.from_parquet([str(self.path / SHARDS / shard.file_name) for shard in self.shards()], **kwargs)


def open_store(path: str | os.PathLike) -> Store:
    """
    Opens a store and verifies the checksum of every shard.

    Raises:
        ValueError: if there is no store, if it has another format, if a shard is corrupt, or if the store is
            unfinished. The message names the shard, or how to continue.
    """
    path = Path(path)
    manifest = read_manifest(path)
    store = Store(path, manifest, read_chunks(path, manifest))
    shards = store.shards()
    missing = sum(not (path / SHARDS / shard.file_name).is_file() for shard in shards)
    if missing:
        raise ValueError(
            f"{path}: unfinished: {len(shards) - missing} of {len(shards)} shards exist. Run the same `ced distill"
            " teach` command again to complete it."
        )
    for shard in shards:
        read_shard(path, shard, manifest)
    return store


def restore_probabilities(
    values: torch.Tensor | np.ndarray, indices: torch.Tensor | np.ndarray, num_labels: int
) -> torch.Tensor:
    """
    Converts stored values to probabilities of all classes, with zeros for those that are not stored.

    Args:
        values: The highest probabilities, of shape `(batch, k)`.
        indices: Their classes, of shape `(batch, k)`.

    Returns:
        float32 of shape `(batch, num_labels)`, on the device of `values`.
    """
    values = torch.as_tensor(values).float()
    indices = torch.as_tensor(indices, device=values.device).long()
    return values.new_zeros(len(values), num_labels).scatter_(1, indices, values)


def top_probabilities(probabilities: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """
    The highest `k` of `(batch, classes)` probabilities in descending order; equal ones in the order of classes.

    Returns:
        float16 values and int16 indices, both of shape `(batch, k)`.
    """
    indices = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(probabilities, indices, axis=1).astype(np.float16), indices.astype(np.int16)


# The parts of a store


def top_k_of(manifest: Mapping[str, Any]) -> int:
    """Number of values per row: `top_k`, or all classes if there are fewer."""
    return min(manifest["top_k"], len(manifest["labels"]))


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads the manifest of a store; raises a ValueError if this version cannot read it."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"{path}: not a store: it has no {MANIFEST}. Make a store with `ced distill teach`."
        ) from error
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{file}: corrupt: {one_line(error).rstrip('.')}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{file}: not the manifest of a distillation store.")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: a store of format version {one_line(version)}; this version of ced_model reads {FORMAT_VERSION}."
        )
    wrong = _wrong_entry(manifest)
    if wrong is not None:
        raise ValueError(f"{file}: corrupt: `{wrong}` is missing or invalid.")
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
    if not isinstance(manifest.get("chunks_checksum"), str):
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
    """Reads the table of chunks; raises a ValueError if it is damaged, or does not belong to the manifest."""
    file = path / CHUNKS
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: corrupt: {one_line(error).rstrip('.')}.") from error
    if _checksum(content) != manifest["chunks_checksum"]:
        raise ValueError(
            f"{file}: corrupt: its checksum differs from {MANIFEST}. Take both files from a copy of the store, or"
            " make a new store with `ced distill teach`."
        )
    table = pq.read_table(pa.BufferReader(content))
    if len(table) != manifest["num_chunks"]:
        raise ValueError(f"{file}: corrupt: {len(table)} chunks, the manifest has {manifest['num_chunks']}.")
    return table


def write_chunks(path: Path, chunks: Iterable[Chunk]) -> str:
    """Writes the table of chunks; returns its checksum, for the manifest's `chunks_checksum`."""
    columns = list(zip(*chunks, strict=True))
    content = _parquet_bytes(pa.table(columns, schema=CHUNKS_SCHEMA))
    write_file(path / CHUNKS, content)
    return _checksum(content)


def write_shard(path: Path, shard: Shard, rows: ShardRows, manifest: Mapping[str, Any]) -> None:
    """
    Writes a shard of the store `path` atomically, with its checksum.

    Raises:
        ValueError: if the rows have values that are not probabilities, or classes that the store does not have.
    """
    file = path / SHARDS / shard.file_name
    for name, array, most in (
        ("probabilities", rows.values, 1),
        ("classes", rows.indices, len(manifest["labels"]) - 1),
    ):
        if not 0 <= array.min() <= array.max() <= most:  # NaN fails, too
            raise ValueError(f"{file}: not written: {name} from {array.min():g} to {array.max():g}, not 0 to {most}.")
    k = rows.values.shape[1]
    table = pa.table(
        {
            "chunk": pa.array(np.arange(shard.start, shard.stop), pa.int32()),
            "epoch": pa.array(np.full(shard.stop - shard.start, shard.epoch), pa.int32()),
            "seed": pa.array(rows.seeds, pa.int32()),
            "values": pa.FixedSizeListArray.from_arrays(pa.array(rows.values.ravel()), k),
            "indices": pa.FixedSizeListArray.from_arrays(pa.array(rows.indices.ravel()), k),
        },
        schema=shard_schema(k),
    )
    table = table.replace_schema_metadata({CHECKSUM: _shard_checksum(table, shard, manifest)})
    # Byte stream splitting of float16 and int16 improves compression: 60 instead of 72 bytes per row.
    encodings = {
        "chunk": "DELTA_BINARY_PACKED",
        "values.list.element": "BYTE_STREAM_SPLIT",
        "indices.list.element": "BYTE_STREAM_SPLIT",
    }
    write_file(file, _parquet_bytes(table, column_encoding=encodings, use_dictionary=False))


def read_shard(path: Path, shard: Shard, manifest: Mapping[str, Any]) -> ShardRows:
    """Reads the rows of a shard of the store `path`; raises a ValueError if it is damaged or from another store."""
    file = path / SHARDS / shard.file_name
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        problem = _shard_problem(table, shard, manifest)
    except (OSError, pa.ArrowException) as error:
        problem = one_line(error).rstrip(".")
    if problem is not None:
        raise ValueError(
            f"{file}: corrupt shard: {problem}. Run the same `ced distill teach` command again to rewrite this shard."
        )
    values, indices = (table[name].combine_chunks().flatten().to_numpy() for name in ("values", "indices"))
    return ShardRows(table["seed"].to_numpy(), values.reshape(len(table), -1), indices.reshape(len(table), -1))


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


def _shard_problem(table: pa.Table, shard: Shard, manifest: Mapping[str, Any]) -> str | None:
    if not table.schema.equals(shard_schema(top_k_of(manifest))):
        return "its columns are " + one_line(", ".join(f"{field.name} {field.type}" for field in table.schema))
    checksum = (table.schema.metadata or {}).get(CHECKSUM)
    if checksum is None:
        return "it has no checksum: another program wrote it"
    if checksum.decode("ascii", "replace") != _shard_checksum(table, shard, manifest):
        return "its checksum does not match its rows in this store: it was changed, or belongs to another store"
    return None


def _shard_checksum(table: pa.Table, shard: Shard, manifest: Mapping[str, Any]) -> str:
    identity = [[manifest.get(name) for name in IDENTITY], shard]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for column in table.itercolumns():
        values = column.combine_chunks()
        flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
        digest.update(flat.to_numpy(zero_copy_only=False).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    # In memory: if the disk is full, errors of Arrow do not have the file, and not always the reason.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, **options)
    return sink.getvalue().to_pybytes()
