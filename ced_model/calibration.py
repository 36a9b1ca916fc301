# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Recordings for the calibration of int8 models and the verification of exports."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import TypeVar

import numpy as np

from .audio import AudioInput, read_blocks
from .recordings import find_recordings

Item = TypeVar("Item")

MAX_RECORDINGS = 100  # more cost memory and time, and do not change the calibration
SYNTHETIC_S = 10.12
LEVELS = (1.0, 0.1, 0.01)  # full scale to quiet


def load_recordings(sources: Iterable[AudioInput], sampling_rate: int, max_samples: int) -> list[np.ndarray]:
    """
    The first `max_samples` samples of up to 100 recordings, evenly spaced in `sources`, as float32.

    Raises:
        AudioError: if a recording cannot be read.
    """
    return [
        next(read_blocks(source, sampling_rate=sampling_rate, block_s=max_samples / sampling_rate))
        for source in spread(list(sources), MAX_RECORDINGS)
    ]


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """At most `number` of the items, evenly spaced from the first to the last."""
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, min(number, len(items)))]


def bundled_recordings(sampling_rate: int, max_samples: int) -> list[np.ndarray]:
    """The recordings of `resources/` as in [`load_recordings`], if there is that folder."""
    return load_recordings(find_recordings().values(), sampling_rate, max_samples)


def synthetic_recordings(sampling_rate: int) -> list[np.ndarray]:
    """
    Synthetic recordings of about 10 s, the same at every call: a voice, a bird, knocks, a fading chord, hum and hiss,
    and a mix of them, at three levels.
    """
    time = np.arange(int(SYNTHETIC_S * sampling_rate)) / sampling_rate
    noise = np.random.default_rng(0)
    hiss = noise.standard_normal(len(time))
    sounds = [
        _voice(time),
        np.sin(2 * np.pi * (3000 * time + 120 * np.sin(9 * time))) * (np.sin(7 * time) > 0.4),
        hiss * np.exp(-40 * (time % 0.7)),
        sum(np.sin(2 * np.pi * pitch * time) for pitch in (196, 246.9, 293.7, 392)) * np.exp(-time / 2),
        np.sin(2 * np.pi * 50 * time) + 0.05 * hiss,
    ]
    sounds = [sound / np.abs(sound).max() for sound in sounds]
    sounds.append(sum(sounds) / len(sounds))
    # With hiss as in real recordings: without it, rounding errors of silence would be compared.
    return [
        (0.7 * level * sound + 2e-5 * hiss).astype(np.float32)
        for sound, level in zip(sounds * 2, cycle(LEVELS), strict=False)
    ]


def _voice(time: np.ndarray) -> np.ndarray:
    """A voice: a gliding pitch with formants, in syllables."""
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.4 * time)) * (time[1] - time[0])
    formants = ((600 + 200 * np.sin(3 * time), 120), (1400 + 500 * np.sin(2 * time), 200))
    sound = np.zeros_like(time)
    for overtone in range(1, 40):
        hertz = 120 * overtone
        loudness = sum(np.exp(-(((hertz - centre) / width) ** 2)) for centre, width in formants)
        sound += (loudness + 0.02) * np.sin(overtone * phase)
    return sound * np.clip(np.sin(2 * np.pi * 2.5 * time), 0, None)


def cut_clips(recordings: Sequence[np.ndarray], samples: int, number: int, start: int = 0) -> np.ndarray:
    """Clips `(number, samples)` from the middle of each recording in turn, from the `start`th; short ones repeat."""
    clips = []
    for index in range(start, start + number):
        recording = recordings[index % len(recordings)]
        first = max(0, (len(recording) - samples) // 2)
        clips.append(np.resize(recording[first : first + samples], samples))
    return np.stack(clips).astype(np.float32)
