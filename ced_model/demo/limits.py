# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Limits on size and duration, checked before decoding."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import LOUDEST, MIX, AudioError, describe, duration_s, read_blocks
from ..messages import one_line, printable

SILENCE = 1e-4  # maximum peak of a silent recording: -80 dB, a few steps of 16-bit audio
TOLERANCE_S = 0.1  # encoders add padding
BLOCK_S = 10.0  # at most one block more than the limit is decoded


class DemoError(Exception):
    """An error for the user: reason and remedy in one line, without folders of the server."""

    def __init__(self, message: str) -> None:
        super().__init__(without_folders(one_line(message)))


def without_folders(text: str) -> str:
    """Reduces each absolute path in `text` to its last part."""
    return re.sub(r"(?<![\w/.:>-])/(?:[^\s/'\"]+/)*([^\s/'\"]+)/?", r"\1", text)


@dataclass(frozen=True)
class Limits:
    """
    Limits on the size and duration of recordings.

    Attributes:
        megabytes: Maximum size of a file in millions of bytes.
        minutes: Maximum duration of a recording.
    """

    megabytes: float = 100
    minutes: float = 10

    @property
    def bytes(self) -> int:
        """Maximum size of a file in bytes."""
        return round(self.megabytes * 1_000_000)

    def __str__(self) -> str:
        return f"{self.megabytes:g} MB and {self.minutes:g} minutes"


def read_sound(path: str | Path, sampling_rate: int, limits: Limits) -> np.ndarray:
    """
    Reads a recording as mono float32 of shape `(samples,)`.

    Size and duration are checked before decoding. If the header has no duration or a wrong one, decoding stops at the
    limit.

    Raises:
        DemoError: if the recording is too large, too long, silent or unreadable.
    """
    name = printable(os.path.basename(path))
    if not os.path.isfile(path):
        raise DemoError(f"{name} is no longer available. Please choose it again.")
    if os.path.getsize(path) > limits.bytes:
        raise DemoError(f"{name} {too_large(limits)}")
    length_s = duration_s(path)
    if length_s is not None:
        _check_duration(name, length_s, limits)
    waveform = _decode(path, name, sampling_rate, limits)
    if np.abs(waveform).max() <= SILENCE:  # channels can cancel each other
        waveform = _decode(path, name, sampling_rate, limits, LOUDEST)
    peak = np.abs(waveform).max()
    if not np.isfinite(peak):
        raise unreadable(name, "it has values that are not finite")
    if peak <= SILENCE:
        raise DemoError(f"{name} is silent. Was the microphone muted?")
    return waveform


def too_large(limits: Limits) -> str:
    """The message for a file that is too large, without its name."""
    return f"is too large. The limit is {limits.megabytes:g} MB: please cut the file, or use the ced command."


def _check_duration(name: str, length_s: float, limits: Limits) -> None:
    if length_s > limits.minutes * 60 + TOLERANCE_S:
        raise DemoError(
            f"{name} is too long. The limit is {limits.minutes:g} minutes: please cut the recording, or use the ced"
            " command, which accepts hours of audio."
        )


def _decode(path: str | Path, name: str, sampling_rate: int, limits: Limits, channel: str | int = MIX) -> np.ndarray:
    blocks: list[np.ndarray] = []
    samples = 0
    try:
        for block in read_blocks(path, sampling_rate=sampling_rate, block_s=BLOCK_S, channel=channel):
            blocks.append(block)
            samples += len(block)
            _check_duration(name, samples / sampling_rate, limits)
    except AudioError as error:
        raise unreadable(name, str(error).removeprefix(f"{describe(path)}: ").replace(str(path), name)) from error
    return np.concatenate(blocks)


def unreadable(name: str, reason: str) -> DemoError:
    return DemoError(f"{name} could not be read as audio: {reason}. Please try another file.")
