# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What decoders have in common: chunks of audio, their checks, and the error of an input that cannot be read."""

from collections.abc import Callable

import numpy as np

Chunk = tuple[np.ndarray, float]  # float32 samples, (channels, samples) or (samples,), and their sampling rate in Hz
Warn = Callable[..., object]

MIN_SAMPLING_RATE = 1000  # below, a few kB in a file of damaged header would become hours of audio
MAX_SAMPLING_RATE = 10_000_000  # far above any recorder; a header that says more is damaged, and soxr slows down there

CHUNK_S = 1.0  # decoded at a time, whatever the block size, so that the samples do not depend on it
CHUNK_SAMPLES = 2**20  # and at most so many over all channels: 4 MB
CUT_TOLERANCE_S = 0.1  # shorter than the header's promise by less than this: encoder padding, not lost audio


class AudioError(ValueError):
    """An input that cannot be read as audio. The message is one line and begins with the input's name."""


def reason_of(error: BaseException) -> str:
    """The reason that a decoder or the system gave, on one line."""
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    if reason.startswith("File does not exist"):  # libsndfile, for a file without an MPEG frame
        reason = "no audio frame found"
    return " ".join(reason.split()).rstrip(".") or type(error).__name__


def to_float(pcm: np.ndarray, name: str) -> np.ndarray:
    """PCM or floating-point samples as float32 with full scale 1.0."""
    if pcm.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is reported with its position
            return pcm.astype(np.float32, copy=False)
    if pcm.dtype == np.uint8:
        return (pcm.astype(np.float32) - 128) / 128
    if pcm.dtype.kind == "i" and pcm.itemsize <= 4:
        return pcm.astype(np.float32) / 2 ** (8 * pcm.itemsize - 1)
    raise AudioError(f"{name}: samples of type {pcm.dtype}: expected floating point, int8, int16, int32 or uint8")


def chunk_frames(rate: float, channels: int) -> int:
    """Frames that are decoded at a time."""
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
        promise = f"the header promises about {promised_s:.1f} s" if promised_s < np.inf else "it ends in mid-page"
        warn("%s: truncated, only %.1f s are there (%s)", name, seconds, promise)


def no_warning(*message: object) -> None:
    pass
