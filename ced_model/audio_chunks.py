# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Chunks of decoded audio: checks, limits and errors that all decoders share."""

from collections.abc import Callable

import numpy as np

Chunk = tuple[np.ndarray, float]  # float32 samples, (channels, samples) or (samples,), and their sampling rate in Hz
Warn = Callable[..., object]

MIN_SAMPLING_RATE = 1000  # with lower rates, a few kB with a damaged header would become hours of audio
MAX_SAMPLING_RATE = 10_000_000  # higher rates mean a damaged header, and slow down soxr

CHUNK_S = 1.0  # length of decoded chunks; independent of the block size, so that samples are, too
CHUNK_SAMPLES = 2**20  # maximum over all channels: 4 MB
CUT_TOLERANCE_S = 0.1  # a smaller difference from the length in the header is encoder padding, not lost audio


class AudioError(ValueError):
    """Raised for an input that cannot be read as audio. The message is one line and starts with the input's name."""


def reason_of(error: BaseException) -> str:
    """The message of a decoder's or system's error, on one line."""
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    if reason.startswith("File does not exist"):  # libsndfile, for a file without an MPEG frame
        reason = "no audio frame found"
    return " ".join(reason.split()).rstrip(".") or type(error).__name__


def to_float(pcm: np.ndarray, name: str) -> np.ndarray:
    """PCM or floating-point samples as float32 with full scale 1.0."""
    if pcm.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is reported later, with its position
            return pcm.astype(np.float32, copy=False)
    if pcm.dtype == np.uint8:
        return (pcm.astype(np.float32) - 128) / 128
    if pcm.dtype.kind == "i" and pcm.itemsize <= 4:
        return pcm.astype(np.float32) / 2 ** (8 * pcm.itemsize - 1)
    raise AudioError(f"{name}: samples of type {pcm.dtype}: expected floating point, int8, int16, int32 or uint8")


def chunk_frames(rate: float, channels: int) -> int:
    """Number of frames per decoded chunk."""
    return max(1, min(int(rate * CHUNK_S), CHUNK_SAMPLES // max(1, channels)))


def checked_rate(rate: float, name: str) -> float:
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise AudioError(f"{name}: sampling rate {rate:g} Hz: expected {MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} Hz")
    return rate


def damaged(name: str, seconds: float, error: BaseException) -> AudioError:
    problem = f"damaged or truncated after {seconds:.1f} s" if seconds else "cannot be decoded"
    return AudioError(f"{name}: {problem} ({reason_of(error)})")


def warn_if_cut(name: str, seconds: float, promised_s: float, warn: Warn) -> None:
    if promised_s > seconds + CUT_TOLERANCE_S:
        promise = f"about {promised_s:.1f} s according to its header" if promised_s < np.inf else "it ends in mid-page"
        warn("%s: truncated, only %.1f s can be read (%s)", name, seconds, promise)


def no_warning(*message: object) -> None:
    pass
