# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The augmentation for teachers and student, which is determined bit by bit by a seed (paper, section 2).

Global random states are neither used nor changed. Random numbers are drawn from the raw 64-bit outputs of a separate
generator, which are the same on every platform and in every version of NumPy.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from ...audio import SAMPLING_RATE
from ...feature_extraction_ced import CedFeatureExtractor
from ...messages import OptionError, check_number

SEED_BITS = 31  # a seed is stored as a non-negative int32
FRAMES_PER_SECOND = 100  # of CED's front end

SHIFT, TIME_MASK, FREQ_MASK = range(3)  # one generator per decision


@dataclass(frozen=True)
class Augmentation:
    """
    The strength of the augmentation. Zeros in the last three fields switch it off.

    Attributes:
        chunk_s: Length of a chunk in seconds.
        max_shift: Maximum circular shift of a chunk's waveform in either direction, as a share of its length, up to
            0.5 (any shift).
        max_time_mask: Maximum number of masked log-mel frames (10 ms) in a chunk of `chunk_s`; proportionally less in a
            shorter one, which could otherwise be masked completely.
        max_freq_mask: Maximum number of masked mel bins.

    Raises:
        ValueError: for an invalid value.
    """

    chunk_s: float = 10.0
    max_shift: float = 0.5
    max_time_mask: int = 192
    max_freq_mask: int = 24

    def __post_init__(self) -> None:
        for name in ("max_time_mask", "max_freq_mask"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise OptionError(name, value, "a whole number from 0")
        for name, low, high in (("max_shift", 0, 0.5), ("chunk_s", 0.15, 86400)):
            check_number(name, getattr(self, name), low)
            if getattr(self, name) > high:
                raise OptionError(name, getattr(self, name), f"a number up to {high}")
        if self.max_time_mask > self.chunk_s * FRAMES_PER_SECOND:
            raise OptionError(
                "max_time_mask", self.max_time_mask, f"at most the frames of 10 ms in `chunk_s` {self.chunk_s:g}"
            )

    @property
    def chunk_samples(self) -> int:
        """Length of a chunk in samples at 16 kHz."""
        return round(self.chunk_s * SAMPLING_RATE)

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; raises a ValueError for a missing, unknown or invalid entry."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"An augmentation has the entries {sorted(names)}, got {got}.")
        return cls(**values)


class MaskBounds(NamedTuple):
    """Masks of a log-mel: frames `[time_start, time_stop)` and bins `[freq_start, freq_stop)`."""

    time_start: int
    time_stop: int
    freq_start: int
    freq_stop: int


def sample_seed(store_seed: int, chunk_id: int, epoch: int) -> int:
    """
    The seed of a chunk in an augmentation epoch.

    Args:
        store_seed: The seed of the store.
        chunk_id: The index of the chunk in the store.
        epoch: The augmentation epoch, from 0.

    Returns:
        A hash of the three numbers, from 0 to 2³¹ − 1, which is the same on every platform.

    Raises:
        ValueError: if one of them does not fit into 64 bits.
    """
    try:
        numbers = struct.pack("<3q", store_seed, chunk_id, epoch)
    except struct.error as error:
        raise ValueError(
            f"A seed requires integers of up to 64 bits, got {store_seed!r}, {chunk_id!r}, {epoch!r}."
        ) from error
    digest = hashlib.blake2b(numbers, digest_size=8, person=b"ced sample").digest()
    return int.from_bytes(digest, "little") >> (64 - SEED_BITS)


def shift_waveform(waveform: np.ndarray, seed: int, augmentation: Augmentation) -> np.ndarray:
    """A circularly shifted copy of a waveform of shape `(samples,)`."""
    furthest = int(augmentation.max_shift * len(waveform))
    return np.roll(waveform, _below(_generator(seed, SHIFT), 2 * furthest + 1) - furthest)


def mask_bounds(seed: int, augmentation: Augmentation, num_frames: int, num_mels: int) -> MaskBounds:
    """The time mask and the frequency mask of a log-mel, with uniform widths (from 0) and positions."""
    in_proportion = int(augmentation.max_time_mask * num_frames / (augmentation.chunk_s * FRAMES_PER_SECOND))
    time = _mask(seed, TIME_MASK, min(augmentation.max_time_mask, in_proportion), num_frames)
    return MaskBounds(*time, *_mask(seed, FREQ_MASK, min(augmentation.max_freq_mask, num_mels), num_mels))


def mask_log_mel(log_mel: torch.Tensor, seed: int, augmentation: Augmentation) -> torch.Tensor:
    """
    A copy of a log-mel of shape `(mels, frames)` with a time mask and a frequency mask.

    Masks are filled with the mean of the log-mel. Zeros would not mask, since before the model's `init_bn` 0 dB is a
    loud sound.
    """
    num_mels, num_frames = log_mel.shape
    bounds = mask_bounds(seed, augmentation, num_frames, num_mels)
    masked = log_mel.clone(memory_format=torch.contiguous_format)
    # Summed in double precision by one thread, since torch's sum depends on the number of threads.
    mean = float(np.mean(masked.numpy(force=True), dtype=np.float64))
    masked[:, bounds.time_start : bounds.time_stop] = mean
    masked[bounds.freq_start : bounds.freq_stop] = mean
    return masked


def augmented_log_mel(
    waveform: np.ndarray, seed: int, augmentation: Augmentation, feature_extractor: CedFeatureExtractor
) -> torch.Tensor:
    """
    The input of a CED model, teacher or student, for a chunk and a seed: shifted, transformed, masked.

    Args:
        waveform: The original chunk, float32 of shape `(samples,)` at 16 kHz.
        seed: The seed, see [`sample_seed`].
        augmentation: The strength of the augmentation.
        feature_extractor: Computes the log-mel; its sampling rate must be 16 kHz.

    Returns:
        float32 of shape `(mels, frames)`, in decibels, on the CPU. Bit-identical in every process and batch: each chunk
        is computed separately by one thread.
    """
    shifted = shift_waveform(waveform, seed, augmentation)
    with one_thread():
        features = feature_extractor(shifted, sampling_rate=SAMPLING_RATE, device="cpu")
        return mask_log_mel(features["input_values"][0], seed, augmentation)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits torch to one CPU thread, as in a worker of a `DataLoader`: matrix products may depend on the number."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _mask(seed: int, purpose: int, max_width: int, length: int) -> tuple[int, int]:
    generator = _generator(seed, purpose)
    width = _below(generator, max_width + 1)
    start = _below(generator, length - width + 1)
    return start, start + width


def _generator(seed: int, purpose: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence([seed, purpose]))


def _below(generator: np.random.PCG64, bound: int) -> int:
    """A uniform random integer in [0, bound)."""
    return int(generator.random_raw()) * bound >> 64
