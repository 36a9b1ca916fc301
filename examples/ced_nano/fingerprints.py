# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds test recordings among the training recordings, even if they were re-encoded, cut or changed in level.

A fingerprint has a word of 32 bits per 16 ms: the signs of the differences of log-energies between neighbouring bands
and frames (J. Haitsma and T. Kalker, A Highly Robust Audio Fingerprinting System, ISMIR 2002). In two copies of the
same recording, at most a third of the bits differ. In different recordings, about half of them differ.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ced_model.audio import read_audio

RATE = 16000
WINDOW = 4096
HOP = 256
BANDS = 33
RANGE_HZ = (300, 6000)
BLOCK = 62  # number of words that are compared: 1 s
MAX_DIFFERENCE = 0.3  # share of bits; for unrelated signals it is 0.5 ± 0.02


def words_of(waveform: np.ndarray) -> np.ndarray:
    """Fingerprint, uint32 (words,), of float32 samples at 16 kHz."""
    if len(waveform) < WINDOW + 2 * HOP:
        return np.zeros(0, np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    edges = np.geomspace(*RANGE_HZ, BANDS + 1) * WINDOW / RATE
    window, energies = np.hanning(WINDOW).astype(np.float32), []
    for start in range(0, len(frames), 256):
        power = np.abs(np.fft.rfft(frames[start : start + 256] * window)) ** 2
        energies.append(np.add.reduceat(power, edges[:-1].astype(int), axis=1))
    log_energies = np.log(np.concatenate(energies) + 1e-9)
    slopes = np.diff(log_energies, axis=1)
    bits = np.diff(slopes, axis=0) > 0
    return (bits * (1 << np.arange(BANDS - 1, dtype=np.uint64))).sum(1).astype(np.uint32)


class Fingerprints:
    """Fingerprints of the recordings in `paths`."""

    def __init__(self, paths: Iterable[Path]):
        self.names, words, self.starts = [], [], [0]
        for path in paths:
            self.names.append(path.name)
            words.append(words_of(read_audio(path)))
            self.starts.append(self.starts[-1] + len(words[-1]))
        self.words = np.concatenate(words) if words else np.zeros(0, np.uint32)
        self.order = np.argsort(self.words, kind="stable")
        self.sorted = self.words[self.order]

    def match(self, waveform: np.ndarray) -> str | None:
        """The name of a recording that has a second in common with float32 samples at 16 kHz, or None."""
        words = words_of(waveform) if len(self.words) else self.words
        variants = [np.uint32(0)] + [np.uint32(1 << bit) for bit in range(BANDS - 1)]
        for variant in variants:  # the unchanged word, and words with one bit flipped
            altered = words ^ variant
            first = np.searchsorted(self.sorted, altered, "left")
            last = np.searchsorted(self.sorted, altered, "right")
            for here in np.flatnonzero(last > first):
                for there in self.order[first[here] : min(last[here], first[here] + 50)]:
                    if self._is_same(words, here, there):
                        return self.names[int(np.searchsorted(self.starts, there, "right")) - 1]
        return None

    def _is_same(self, words: np.ndarray, here: int, there: int) -> bool:
        end = self.starts[int(np.searchsorted(self.starts, there, "right"))]
        length = min(BLOCK, len(words) - here, end - there)
        if length < BLOCK:
            return False
        own, other = words[here : here + length], self.words[there : there + length]
        if min(len(np.unique(own)), len(np.unique(other))) < BLOCK // 2:  # silence or a tone: the same word repeated
            return False
        different = np.unpackbits((own ^ other).view(np.uint8)).sum()
        return bool(different <= MAX_DIFFERENCE * 32 * length)
