# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The front end in NumPy: waveforms to log-mel spectrograms in decibels."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

PATCH_FRAMES = 16  # length of one patch, to which shorter clips are zero-padded
AMIN = 1e-10  # minimum power: -100 dB
TOP_DB = 120.0  # dynamic range kept below each clip's own maximum, in dB
BLOCK_FRAMES = 128  # frames transformed at a time, so that intermediate arrays fit into the CPU cache
# Maximum number of multiplications for which OpenBLAS uses only the calling thread. Its own threads would compete with
# those of the engine, and could hang after a fork.
SINGLE_THREADED = 2**18 - 1


@dataclass(frozen=True)
class FrontEnd:
    """
    Parameters of the front end; the defaults are those of the published models.

    Attributes:
        n_mels: Number of mel bins.
        sampling_rate: Sampling rate in hertz (Hz).
        n_fft: Size of the Fourier transform in samples.
        win_size: Length of the periodic Hann window in samples, centred in `n_fft`.
        hop_size: Distance between frames in samples.
        f_min, f_max: Bounds of the mel filterbank in Hz; `f_max=None` is half the sampling rate.
        center: Whether frames are centred on multiples of `hop_size`, with reflection at both ends of the clip.
    """

    n_mels: int = 64
    sampling_rate: int = 16000
    n_fft: int = 512
    win_size: int = 512
    hop_size: int = 160
    f_min: float = 0.0
    f_max: float | None = None
    center: bool = True

    def num_frames(self, num_samples: int) -> int:
        """Number of frames of a clip of `num_samples` samples, before any padding."""
        return 1 + (num_samples if self.center else num_samples - self.n_fft) // self.hop_size

    @property
    def min_samples(self) -> int:
        """Number of samples for one patch of 16 frames, 2,400 by default; shorter clips are zero-padded to it."""
        samples = (PATCH_FRAMES - 1) * self.hop_size
        # The reflection at both ends requires more than half a window.
        return max(samples, self.n_fft // 2 + 1) if self.center else samples + self.n_fft

    def max_samples(self, num_frames: int) -> int:
        """Length in samples of the longest clip with at most `num_frames` frames."""
        return (0 if self.center else self.n_fft) + num_frames * self.hop_size - 1


@lru_cache(maxsize=16)
def hann_window(front_end: FrontEnd) -> np.ndarray:
    """Periodic Hann window, float32 of shape `(n_fft,)`, with zeros on both sides if it is shorter."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(front_end.win_size) / front_end.win_size)
    left = (front_end.n_fft - front_end.win_size) // 2
    return np.pad(window, (left, front_end.n_fft - front_end.win_size - left)).astype(np.float32)


@lru_cache(maxsize=16)
def mel_filters(front_end: FrontEnd) -> np.ndarray:
    """
    Mel filterbank, float32 of shape `(n_fft // 2 + 1, n_mels)`: triangular filters on the HTK scale
    2595 · log10(1 + f / 700) (The HTK Book, section 5.4), not normalised.
    """
    half_rate = front_end.sampling_rate / 2
    f_max = half_rate if front_end.f_max is None else front_end.f_max
    low, high = (2595 * np.log10(1 + np.array([front_end.f_min, f_max]) / 700)).tolist()
    edges = 700 * (10 ** (np.linspace(low, high, front_end.n_mels + 2) / 2595) - 1)
    frequencies = np.linspace(0, half_rate, front_end.n_fft // 2 + 1)
    distances = edges - frequencies[:, None]  # (frequencies, n_mels + 2)
    rising = -distances[:, :-2] / np.diff(edges)[:-1]
    falling = distances[:, 2:] / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(waveform: np.ndarray, front_end: FrontEnd = FrontEnd()) -> np.ndarray:  # noqa: B008  # frozen
    """
    Log-mel spectrogram of one clip, without checks or padding.

    Args:
        waveform: Mono audio, float32 in [-1, 1] of shape `(samples,)`, longer than half a window.
        front_end: The parameters.

    Returns:
        Decibels, float32 of shape `(n_mels, frames)`. Values more than 120 dB below the maximum are raised to that
        level.
    """
    return clamped(decibels_of(frames_of(waveform, front_end), front_end)).T


def frames_of(waveform: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """The frames of a clip, as a view of shape `(frames, n_fft)`."""
    if front_end.center:
        waveform = np.pad(waveform, front_end.n_fft // 2, mode="reflect")
    return np.lib.stride_tricks.sliding_window_view(waveform, front_end.n_fft)[:: front_end.hop_size]


def clamped(decibels: np.ndarray) -> np.ndarray:
    """Raises, in place, the decibels of one clip that are more than 120 dB below their maximum to that level."""
    return np.maximum(decibels, decibels.max() - np.float32(TOP_DB), out=decibels)


def decibels_of(frames: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Mel bins in decibels, float32 of shape `(frames, n_mels)`, from frames of shape `(frames, n_fft)`."""
    window, filters, size = hann_window(front_end), mel_filters(front_end), front_end.n_fft
    mel = np.empty((len(frames), front_end.n_mels), np.float32)
    # Arrays are reused for all blocks, since allocation takes as long as the transform.
    windowed = np.empty((BLOCK_FRAMES, size), np.float32)
    spectrum = np.empty((BLOCK_FRAMES, size // 2 + 1), np.complex64)
    power, imaginary = np.empty_like(spectrum, np.float32), np.empty_like(spectrum, np.float32)
    rows = max(1, SINGLE_THREADED // filters.size)
    with np.errstate(over="ignore", invalid="ignore"):  # samples that are too large become infinity or NaN
        for start in range(0, len(frames), BLOCK_FRAMES):
            block = slice(0, min(BLOCK_FRAMES, len(frames) - start))
            np.multiply(frames[start : start + BLOCK_FRAMES], window, out=windowed[block])
            np.fft.rfft(windowed[block], out=spectrum[block])  # type: ignore[arg-type]  # complex64
            np.square(spectrum[block].real, out=power[block])
            power[block] += np.square(spectrum[block].imag, out=imaginary[block])
            for row in range(0, block.stop, rows):
                last = min(row + rows, block.stop)
                np.matmul(power[row:last], filters, out=mel[start + row : start + last])
    np.log10(np.maximum(mel, AMIN, out=mel), out=mel)
    mel *= 10
    return mel


class SharedFrames:
    """
    Log-mel spectrograms of overlapping windows of a recording, with each frame computed only once.

    Windows start at multiples of `hop_size`. Each spectrogram equals [`log_mel`] of the window: frames at its ends,
    which reflect its audio, and the 120 dB limit are computed per window.
    """

    def __init__(self, front_end: FrontEnd) -> None:
        self.front_end = front_end
        self._first = 0  # index in the recording of the first frame in `_inner`
        self._inner = np.zeros((0, front_end.n_mels), np.float32)

    def log_mel(self, start: int, waveform: np.ndarray) -> np.ndarray:
        """[`log_mel`] of the window at sample `start`. Windows must be given in order."""
        front_end = self.front_end
        frames = frames_of(waveform, front_end)
        reach = front_end.n_fft // 2 if front_end.center else 0
        inner_from = -(-reach // front_end.hop_size)
        inner_to = max(inner_from, (len(waveform) - reach) // front_end.hop_size + 1) if reach else len(frames)
        first = start // front_end.hop_size + inner_from
        known = self._inner[max(0, first - self._first) :][: inner_to - inner_from]
        todo = np.r_[0:inner_from, inner_from + len(known) : len(frames)]
        decibels = np.empty((len(frames), front_end.n_mels), np.float32)
        decibels[inner_from : inner_from + len(known)] = known
        decibels[todo] = decibels_of(frames[todo], front_end)
        self._first, self._inner = first, decibels[inner_from:inner_to].copy()
        return clamped(decibels).T
