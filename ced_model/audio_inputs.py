# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs of all kinds (paths, bytes, file objects, arrays, decoders, rows of 🤗 datasets) → open files or arrays."""

import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import numpy as np

from .audio_chunks import AudioError, checked_rate, reason_of
from .messages import printable

AudioInput = str | os.PathLike | bytes | BinaryIO | np.ndarray | dict[str, Any] | Any  # Any: tensors, decoders

MAX_ARRAY_CHANNELS = 32
MAX_PATH = 4096  # bytes, on Linux


def plain_input(source: Any) -> Any:
    """
    Converts an input of `read_blocks` to a path, bytes, a `memoryview`, a file object, an array or a dictionary with an
    array. Anything else is returned unchanged.
    """
    if isinstance(source, Mapping):
        try:
            row = source if isinstance(source, dict) else dict(source)  # datasets has lazy rows, too
        except Exception as error:  # of the code that loads the row
            raise AudioError(f"<row>: cannot be loaded: {reason_of(error)}") from error
        return _row_input(row)
    if hasattr(source, "get_all_samples"):
        return _decoder_input(source)
    if isinstance(source, np.ndarray) and not source.ndim and source.dtype.kind in "OSU":
        source = source.item()
    if isinstance(source, str | bytes | bytearray | os.PathLike | io.IOBase | np.ndarray | np.generic):
        return source
    try:  # mmap, memoryview, array.array, …
        content = memoryview(source)
    except (TypeError, ValueError, BufferError):
        return source
    return content.cast("B") if content.itemsize == 1 and content.c_contiguous else source


def _row_input(source: dict[str, Any]) -> Any:
    """The audio in a row, or the row itself if it is audio with an array or has no audio."""
    if _holds_array(source):
        return source
    if _is_encoded(source):
        value = source.get("path") if source.get("bytes") is None else source["bytes"]
        is_file = isinstance(value, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(value, "read")
        return value if is_file else source
    values = [value for value in source.values() if _is_audio_value(value)]
    return plain_input(values[0]) if len(values) == 1 else source


def array_of(source: Mapping[str, Any], name: str = "<array>") -> Any:
    """The waveform in `{"array" or "raw": waveform}`, or None."""
    array, raw = source.get("array"), source.get("raw")
    if array is not None and raw is not None:
        raise AudioError(f'{name}: a dict with both "array" and "raw": pass one of them')
    return raw if array is None else array


def _holds_array(source: Mapping[str, Any]) -> bool:
    return source.get("array") is not None or source.get("raw") is not None


def _is_encoded(source: Mapping[str, Any]) -> bool:
    """Whether it is `{"bytes", "path"}`, the form in which 🤗 datasets stores a file."""
    return ("bytes" in source and source["bytes"] is not None) or (bool(source) and source.keys() <= {"bytes", "path"})


def _is_audio_value(value: Any) -> bool:
    """Whether a value of a row is audio. Texts do not count, since they need not be paths."""
    if isinstance(value, Mapping):
        return _is_encoded(value) or (_holds_array(value) and "sampling_rate" in value)
    return hasattr(value, "get_all_samples")


def _decoder_input(decoder: Any) -> Any:
    """The encoded file of an `AudioDecoder` of 🤗 datasets, or the samples of another decoder."""
    encoded = getattr(decoder, "_hf_encoded", None) or {}
    if encoded.get("bytes") is not None:
        return encoded["bytes"]
    path = encoded.get("path")
    if isinstance(path, str) and os.path.isfile(path):
        return path
    return decoder


def is_single_input(source: Any) -> bool:
    """Whether it is one input, not an iterable of inputs."""
    source = plain_input(source)
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | Mapping) or hasattr(source, "read"):
        return True
    if hasattr(source, "get_all_samples"):
        return True
    if not hasattr(source, "dtype"):
        return False
    return getattr(source.dtype, "kind", None) not in ("O", "S", "U", "T") or source.ndim != 1  # an array of names


def is_array(source: Any) -> bool:
    """Whether a plain input is a waveform."""
    if isinstance(source, str | bytes | bytearray | memoryview | os.PathLike):  # NumPy strings have a shape, too
        return False
    return isinstance(source, dict) or hasattr(source, "shape") or hasattr(source, "get_all_samples")


def describe(source: Any) -> str:
    """A short printable name of an input, on one line: control characters and bytes that are not UTF-8 are escaped."""
    try:
        if path := _path_beside(source):
            return _shown_path(path)
        source = plain_input(source)
    except Exception:  # a row that cannot be loaded
        return "<row>"
    if isinstance(source, dict) and not source.keys() & {"array", "raw"}:
        return "<row>"
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    if is_array(source):
        return "<array>"
    if hasattr(source, "read"):
        source = getattr(source, "name", None)
        if not isinstance(source, str | bytes | os.PathLike):
            return "<file>"
    if isinstance(source, str | bytes | os.PathLike):
        return _shown_path(source)
    return f"<{type(source).__name__}>"


def _shown_path(path: str | bytes | os.PathLike) -> str:
    text = printable(path)
    if len(text) > 4 * MAX_PATH:  # audio or base64 in place of a path
        return f"{text[:100]}…"
    return text or "''"


def _path_beside(source: Any) -> str | None:
    """The path that 🤗 datasets stores with the audio."""
    if isinstance(source, Mapping):
        path = source.get("path")
        if isinstance(path, str) or _holds_array(source) or _is_encoded(source):
            return path if isinstance(path, str) else None
        values = [value for value in source.values() if _is_audio_value(value)]
        return _path_beside(values[0]) if len(values) == 1 else None
    encoded = getattr(source, "_hf_encoded", None)
    path = encoded.get("path") if isinstance(encoded, dict) else None
    return path if isinstance(path, str) else None


@contextmanager
def opened(source: Any, name: str) -> Iterator[BinaryIO]:
    """
    Opens `source` as a file with a descriptor, which C decoders read without calling back into Python (where they would
    swallow exceptions and KeyboardInterrupt).
    """
    with ExitStack() as stack:
        try:
            file = _acquire(source, stack, name)
            empty = not file.seek(0, os.SEEK_END)
            file.seek(0)
        except AudioError:
            raise
        except Exception as error:  # OSError mostly, but a file object may raise anything
            raise AudioError(f"{name}: cannot be opened: {reason_of(error)}") from error
        if empty:
            raise AudioError(f"{name}: holds no audio: the file is empty")
        yield file


def _acquire(source: Any, stack: ExitStack, name: str) -> BinaryIO:
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(open(_regular_file(os.fspath(source), name), "rb", buffering=0))
    if isinstance(source, bytes | bytearray | memoryview):
        copy = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        content = memoryview(source)
        for start in range(0, len(content), 2**20):
            copy.write(content[start : start + 2**20])
        return copy
    if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
        raise AudioError(f"{name}: not audio: expected a path, bytes, a file opened in binary mode, or an array")
    if can_seek(source):
        stack.callback(source.seek, source.tell())
        source.seek(0)
        raw = getattr(source, "raw", source)
        if isinstance(raw, io.FileIO):
            return raw
    copy = stack.enter_context(tempfile.TemporaryFile(buffering=0))
    shutil.copyfileobj(source, copy, 2**20)
    return copy


def can_seek(file: Any) -> bool:
    return hasattr(file, "seekable") and file.seekable()


def _regular_file(path: str | bytes, name: str) -> str | bytes:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", os.fsdecode(path)):
        raise AudioError(f"{name}: URLs are not fetched: download it first and pass the file")
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise AudioError(f"{name}: a directory, not an audio file")
    if not stat.S_ISREG(mode):  # opening a FIFO would wait for a writer
        raise AudioError(f"{name}: a pipe, socket or device, not a regular file")
    return path


def samples_and_rate(source: Any, array_sampling_rate: float, name: str) -> tuple[np.ndarray, float]:
    """An array, tensor or dict as `(channels, samples)` in its own dtype, and its sampling rate in Hz."""
    samples, rate, max_channels = source, array_sampling_rate, 1
    if isinstance(source, dict):
        samples, max_channels = array_of(source, name), MAX_ARRAY_CHANNELS
        rate = source.get("sampling_rate", np.nan)
        if not source.keys() & {"array", "raw", "sampling_rate"}:
            raise AudioError(f"{name}: {_why_no_audio(source)}")
        if samples is None or source.get("sampling_rate") is None:
            given = sorted(str(key) for key, value in source.items() if value is not None)
            raise AudioError(f'{name}: a dict needs "array" (or "raw") and "sampling_rate", got {given}')
    elif hasattr(source, "get_all_samples"):
        try:
            decoded = source.get_all_samples()
        except Exception as error:  # of torchcodec and FFmpeg
            raise AudioError(f"{name}: cannot be decoded: {reason_of(error)}") from error
        samples, rate, max_channels = decoded.data, decoded.sample_rate, MAX_ARRAY_CHANNELS
    try:
        if hasattr(samples, "detach"):
            samples = samples.detach().cpu().resolve_conj().resolve_neg()
            if str(samples.dtype) == "torch.bfloat16":  # not a dtype of NumPy
                samples = samples.float()
        is_masked = np.ma.is_masked(samples)
        samples, rate = np.asarray(samples), float(rate)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: a tensor without samples
        raise AudioError(f"{name}: not an array with a sampling rate: {reason_of(error)}") from error
    if is_masked:
        raise AudioError(f"{name}: a masked array with masked samples: fill them, for example with array.filled(0)")
    shape = samples.shape
    samples = samples[np.newaxis] if samples.ndim == 1 else samples
    if samples.ndim != 2 or not 0 < len(samples) <= max(1, min(max_channels, samples.shape[1])):
        raise AudioError(
            f"{name}: an array of shape {shape}: expected (samples,), or (channels, samples) in a dict "
            f'{{"array": …, "sampling_rate": …}} with at most {MAX_ARRAY_CHANNELS} channels'
        )
    return samples, checked_rate(rate, name)


def _why_no_audio(row: dict[str, Any]) -> str:
    if row and row.keys() <= {"bytes", "path"}:
        found = [f"{key} is of type {type(value).__name__}" for key, value in row.items() if value is not None]
        return f"a row without audio: {' and '.join(found) or 'its bytes and path are None'}"
    splits = [key for key, value in row.items() if hasattr(value, "cast_column")]
    if splits:
        return f"the splits of a dataset: pass one, as dataset[{_shown_key(splits[0])}]"
    several = [key for key, value in row.items() if _is_audio_value(value)]
    if several:
        return (
            f"a row with audio in {' and '.join(map(_shown_key, several))}: pass one, as row[{_shown_key(several[0])}]"
        )
    keys = ", ".join(map(_shown_key, row)) or "no keys"
    return (
        f'a dictionary without audio; it has {keys}: pass {{"array", "sampling_rate"}}, {{"bytes", "path"}} or a path'
    )


def _shown_key(key: Any) -> str:
    return repr(printable(key))
