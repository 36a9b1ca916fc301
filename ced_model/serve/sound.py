# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Decodes uploads to waveforms, in bounded time and memory."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

from ..audio import LOUDEST, AudioError, decoded_chunks, describe, duration_s, read_blocks
from ..audio import loudest_channel as choose_loudest
from ..audio_chunks import Chunk
from ..messages import one_line
from .body import Upload
from .settings import Refusal, Settings

BLOCK_S = 2.0  # decoded between two checks of the limits
TOLERANCE_S = 0.1  # encoders add padding
NPY = b"\x93NUMPY"
PCM_TYPES: dict[str, np.dtype[Any]] = {"pcm_s16le": np.dtype("<i2"), "pcm_f32le": np.dtype("<f4")}
MAX_NPY_HEADER = 10_000


class Budget:
    """The time limit of one request. Raises a [`Refusal`] after it, or when the client has disconnected."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_cancelled = False
        self._began = time.monotonic()

    def check(self, _: Any = None) -> None:
        if self.is_cancelled:
            raise Refusal(499, "the client has disconnected")
        if time.monotonic() - self._began > self.settings.timeout_s:
            raise Refusal(503, f"computing took longer than {self.settings.timeout_s:g} s: send shorter recordings")

    def check_decoding(self, seconds: float) -> None:
        """Checks the time limit of decoding, and the limit on decoded seconds."""
        self.check()
        if time.monotonic() - self._began > self.settings.decode_timeout_s:
            raise Refusal(422, f"decoding took longer than {self.settings.decode_timeout_s:g} s")
        if seconds > self.settings.max_minutes * 60 + TOLERANCE_S:
            raise Refusal(413, f"the recording is too long: expected at most {self.settings.max_minutes:g} minutes")


class Warnings(logging.Handler):
    """Collects warnings about damaged files for the response, instead of the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        self._thread.line = one_line(record.getMessage().partition(": ")[2])

    def take(self) -> str:
        """The last warning in this thread since the last call, or an empty string."""
        line, self._thread.line = getattr(self._thread, "line", ""), ""
        return line


warnings = Warnings()


def load(upload: Upload, parameters: Any, model_rate: int, budget: Budget) -> np.ndarray:
    """
    The audio of a request as mono float32 of shape `(samples,)` at the model's sampling rate.

    Args:
        upload: The body.
        parameters: Has `encoding`, `sampling_rate` and `channel`.

    Raises:
        Refusal: if it cannot be decoded, or exceeds a limit.
    """
    source = _source(upload, parameters.encoding, parameters.sampling_rate or model_rate)
    channel: Any = parameters.channel
    channel = int(channel) if channel.isdecimal() else channel
    try:
        budget.check_decoding(duration_s(source) or 0.0)
        if channel == LOUDEST and not isinstance(source, dict):
            chunks: Any = decoded_chunks(source)
            with closing(chunks):  # closed before the file
                channel = choose_loudest(_checked(chunks, budget))
        blocks, samples = [], 0
        reading: Any = read_blocks(source, sampling_rate=model_rate, block_s=BLOCK_S, channel=channel)
        with closing(reading):
            for block in reading:
                samples += len(block)
                budget.check_decoding(samples / model_rate)
                blocks.append(block)
    except AudioError as error:
        raise unreadable(error, source) from error
    return np.concatenate(blocks)


def unreadable(error: Exception, source: Any) -> Refusal:
    reason = str(error).removeprefix(f"{describe(source)}: ")
    return Refusal(422, f"the audio cannot be read: {reason}")


def _checked(chunks: Iterator[Chunk], budget: Budget) -> Iterator[Chunk]:
    seconds = 0.0
    for samples, rate in chunks:
        seconds += samples.shape[-1] / rate
        budget.check_decoding(seconds)
        yield samples, rate


def _source(upload: Upload, encoding: str, rate: float) -> Any:
    if upload.array is not None:
        return {"array": upload.array, "sampling_rate": rate}
    if encoding in PCM_TYPES:
        return {"array": pcm_samples(upload.content(), encoding), "sampling_rate": rate}
    upload.file.seek(0)
    if upload.file.read(len(NPY)) == NPY:
        return {"array": _read_npy(upload), "sampling_rate": rate}
    return upload.file


def pcm_samples(data: bytes, encoding: str) -> np.ndarray:
    """Samples of one channel. Raises a [`Refusal`] if the last one is incomplete."""
    kind = PCM_TYPES[encoding]
    if not data or len(data) % kind.itemsize:
        raise Refusal(422, f"expected {kind.itemsize} bytes per sample of {encoding}, received {len(data)} bytes")
    return np.frombuffer(data, kind)


def _read_npy(upload: Upload) -> np.ndarray:
    """Reads an .npy file safely: no code is executed, and no more memory is allocated than the file has data."""
    upload.file.seek(0)
    read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    try:
        version, _ = np.lib.format.read_magic(upload.file)
        shape, is_fortran, kind = read_header[version](upload.file, max_header_size=MAX_NPY_HEADER)
        if kind.hasobject:
            raise ValueError("it has Python objects")
        array = np.frombuffer(upload.file.read(), kind)
        return array.reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, KeyError, TypeError, SyntaxError, OverflowError, MemoryError) as error:
        raise Refusal(422, f"the .npy file cannot be read: {error}") from error
