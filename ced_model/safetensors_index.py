# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Positions of the tensors in a safetensors checkpoint, without reading the tensors."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .messages import one_line, printable

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

FLOATS = ("F64", "F32", "F16", "BF16")
TYPES: dict[str, Any] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
TYPES |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
HALF_INFINITY = {"F16": 0x7C00, "BF16": 0x7F80}  # the bits of infinity
CHUNK = 2**20  # values read at a time
MAX_JSON_BYTES = 64 << 20
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class ModelFolderError(ValueError):
    """Raised for an invalid model folder. The message is one line and names the file and the field or tensor."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class StoredTensor:
    """
    A tensor in a safetensors file.

    Attributes:
        file: The file, with links resolved.
        dtype: The name of the dtype in safetensors: `F32`, `F16`, `BF16`, …
        shape: The shape.
        offset: Position of the first byte in the file.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def num_bytes(self) -> int:
        return self.size * np.dtype(TYPES[self.dtype]).itemsize

    def chunks(self) -> Iterator[np.ndarray]:
        """The values as stored (bfloat16 as uint16), in pieces of at most 4 MB."""
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            left = self.size
            while left:
                values = np.fromfile(file, TYPES[self.dtype], min(left, CHUNK))
                if not len(values):
                    raise ModelFolderError(f"{Path(self.file).name} is damaged: the file is truncated.")
                left -= len(values)
                yield values

    def read(self) -> np.ndarray:
        """The values as float32."""
        parts = [_to_float32(values, self.dtype) for values in self.chunks()]
        return np.concatenate(parts).reshape(self.shape) if parts else np.zeros(self.shape, np.float32)


def _to_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def check_finite(tensors: Mapping[str, StoredTensor]) -> None:
    """Raises a [`ModelFolderError`] for the first tensor with NaN or infinite values."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            continue
        for values in tensor.chunks():
            if not _is_finite(values, tensor.dtype):
                raise ModelFolderError(
                    f"The model's weights are damaged: {name} has NaN or infinite values. Train it again, or load"
                    " another copy."
                )


def _is_finite(values: np.ndarray, dtype: str) -> bool:
    if dtype in HALF_INFINITY:  # NaN and infinity have the largest bit patterns; a conversion is ten times slower
        return not len(values) or int((values.view(np.uint16) & 0x7FFF).max()) < HALF_INFINITY[dtype]
    # The sum is cheaper to check than each value. It is finite unless a value is not, or is huge.
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(values.sum()) or bool(np.isfinite(values).all())


def has_safetensors(folder: str | os.PathLike) -> bool:
    """Whether the folder has weights in this format."""
    return Path(folder, WEIGHTS_FILE).is_file() or Path(folder, INDEX_FILE).is_file()


def find_tensors(folder: str | os.PathLike) -> dict[str, StoredTensor]:
    """
    All tensors of a model folder by name, from a single file or from shards.

    Raises:
        ModelFolderError: if there is no safetensors checkpoint in the folder, or it is damaged.
    """
    single, index = Path(folder, WEIGHTS_FILE), Path(folder, INDEX_FILE)
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise ModelFolderError(f"{printable(folder)} has no {WEIGHTS_FILE}.")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelFolderError(f"{INDEX_FILE} has no `weight_map` of file names in the folder.")
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(shards.values())):
        if Path(name).name != name:
            raise ModelFolderError(f"{INDEX_FILE} has no `weight_map` of file names in the folder.")
        tensors |= read_header(Path(folder, name))
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name; raises a `ModelFolderError` if it is damaged."""
    try:
        real = os.path.realpath(path)  # files in the Hub cache are links
        with open(real, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            available = os.fstat(file.fileno()).st_size - 8
            if not 2 <= size <= min(available, MAX_HEADER_BYTES):
                raise ModelFolderError(f"{path.name} is damaged: not a safetensors file, or truncated in its header.")
            header = json.loads(file.read(size))
        data = 8 + size
        return {
            name: _stored_tensor(real, data, available - size, entry)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except ModelFolderError:
        raise
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path.name} is missing, but listed in {INDEX_FILE}.") from error
    except OSError as error:
        raise ModelFolderError(f"{path.name} cannot be read: {error.strerror}.") from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{path.name} is damaged: {one_line(error) or type(error).__name__}.") from error


def _stored_tensor(file: str, data: int, available: int, entry: Mapping[str, Any]) -> StoredTensor:
    start, end = entry["data_offsets"]
    tensor = StoredTensor(file, entry["dtype"], tuple(entry["shape"]), data + start)
    if not all(isinstance(value, int) and value >= 0 for value in (start, end, *tensor.shape)):
        raise ValueError("a tensor has an invalid shape or position")
    if tensor.dtype not in TYPES:
        raise ValueError(f"tensors of type {tensor.dtype} are not supported")
    if end - start != tensor.num_bytes:
        raise ValueError("the size of a tensor does not match its shape")
    if end > available:
        raise ValueError("the file is truncated")
    return tensor


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises a [`ModelFolderError`] if the file is invalid."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelFolderError(f"{path.name} is larger than {MAX_JSON_BYTES >> 20} MiB.")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except RecursionError as error:
        raise ModelFolderError(f"{path.name} is nested too deeply.") from error
    except ValueError as error:  # invalid JSON, or not UTF-8
        raise ModelFolderError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path.name} must contain an object {{…}}, got a {type(content).__name__}.")
    return content


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json` that raises a ValueError if a key appears twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return content
