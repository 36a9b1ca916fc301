# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes scenes of 10 s from the recordings of the bank: single recordings, sequences and mixtures.

A scene depends only on the bank, the split and its index, so scenes can be made in any process and in any order.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr

from ced_model.output import new_file
from sources import SAMPLING_RATE, Bank

SCENE_S = 10.0
SCENE_SAMPLES = int(SCENE_S * SAMPLING_RATE)
LONG_S = 4.0  # minimum length of recordings for the background
CODECS = (("OGG", "VORBIS", 0.95), ("MP3", "MPEG_LAYER_III", 0.9), ("WAV", "ULAW", None), ("WAV", "IMA_ADPCM", None))


class Mixer:
    """Makes scenes from the recordings `indices`, which are drawn in proportion to their weights."""

    def __init__(
        self, bank: Bank, indices: Sequence[int], weights: np.ndarray, rooms: Sequence[np.ndarray], *, seed: int
    ):
        self.bank, self.rooms, self.seed = bank, rooms, seed
        self.indices = np.asarray(indices)
        self.cumulative = np.cumsum(weights) / np.sum(weights)
        is_long = np.array([bank.rows[i]["samples"] >= LONG_S * SAMPLING_RATE for i in indices])
        self.long_indices = self.indices[is_long]
        self.long_cumulative = np.cumsum(weights[is_long]) / np.sum(weights[is_long])

    def scene(self, index: int) -> np.ndarray:
        """The scene of this index: float32 (160000,) in [-1, 1]."""
        rng = np.random.default_rng((self.seed, index))
        kind = rng.random()
        if kind < 0.4:
            scene = self._alone(rng)
        elif kind < 0.55:
            scene = self._sequence(rng)
        else:
            scene = self._mixture(rng)
        if rng.random() < 0.25:
            scene = scene + _noise(rng, SCENE_SAMPLES) * _rms(scene) * _gain(rng, -45, -10)
        scene *= _gain(rng, -38, -8) / max(_rms(scene), 1e-9)
        scene = np.clip(scene, -1, 1).astype(np.float32)
        return _coded(scene, rng) if rng.random() < 0.1 else scene

    def _alone(self, rng: np.random.Generator) -> np.ndarray:
        sound = self._sound(rng, self._draw(rng))
        if len(sound) >= SCENE_SAMPLES:
            return _crop(sound, SCENE_SAMPLES, rng)
        scene = np.zeros(SCENE_SAMPLES, np.float32)
        position = int(rng.integers(0, SAMPLING_RATE))
        pause = int(rng.uniform(0.05, 2.5) * SAMPLING_RATE)
        while position < SCENE_SAMPLES:  # repeated, like the sounds of a bell or a dog
            _add(scene, sound, position)
            position += len(sound) + int(pause * rng.uniform(0.5, 1.5))
        return scene

    def _sequence(self, rng: np.random.Generator) -> np.ndarray:
        scene = np.zeros(SCENE_SAMPLES, np.float32)
        position = 0
        while position < SCENE_SAMPLES:
            sound = _crop(self._sound(rng, self._draw(rng)), int(rng.uniform(0.5, 5) * SAMPLING_RATE), rng)
            _add(scene, sound / max(_rms(sound), 1e-6) * _gain(rng, -8, 0), position)
            position += len(sound) + int(rng.exponential(0.3) * SAMPLING_RATE)
        return scene

    def _mixture(self, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < 0.8:
            place = min(np.searchsorted(self.long_cumulative, rng.random()), len(self.long_indices) - 1)
            sound = self._sound(rng, int(self.long_indices[place]))
            scene = np.resize(_crop(sound, SCENE_SAMPLES, rng), SCENE_SAMPLES)
        else:
            scene = _noise(rng, SCENE_SAMPLES)
        scene = scene / max(_rms(scene), 1e-6)
        for _ in range(int(rng.integers(1, 5))):
            sound = _crop(self._sound(rng, self._draw(rng)), int(rng.uniform(1, 8) * SAMPLING_RATE), rng)
            sound = sound / max(_rms(sound), 1e-6) * _gain(rng, -10, 20)
            for _ in range(1 if len(sound) > 2 * SAMPLING_RATE else int(rng.integers(1, 5))):
                _add(scene, sound, int(rng.integers(-len(sound) // 2, SCENE_SAMPLES - len(sound) // 4)))
        return scene

    def _draw(self, rng: np.random.Generator) -> int:
        return int(self.indices[min(np.searchsorted(self.cumulative, rng.random()), len(self.indices) - 1)])

    def _sound(self, rng: np.random.Generator, index: int) -> np.ndarray:
        """A recording with random changes: speed, bandwidth, spectral tilt, and reverberation."""
        sound = _crop(self.bank.waveform(index), 15 * SAMPLING_RATE, rng)
        if rng.random() < 0.5:
            sound = soxr.resample(sound, SAMPLING_RATE, SAMPLING_RATE * rng.uniform(0.84, 1.19), quality="QQ")
        if rng.random() < 0.1:
            rate = float(rng.choice((4000, 6000, 8000, 11025)))
            sound = soxr.resample(soxr.resample(sound, SAMPLING_RATE, rate), rate, SAMPLING_RATE)
        if rng.random() < 0.3:
            sound = _tilted(sound, rng)
        if rng.random() < 0.25:
            sound = scipy.signal.fftconvolve(sound, self.rooms[rng.integers(len(self.rooms))]).astype(np.float32)
        return sound


def _rms(sound: np.ndarray) -> float:
    """RMS without the silent parts, so that it does not depend on the silence around an event."""
    power = np.square(sound[: len(sound) // 400 * 400].reshape(-1, 400)).mean(1) if len(sound) >= 400 else sound**2
    return float(np.sqrt(power[power > 1e-3 * power.max()].mean())) if power.max() > 0 else 0.0


def _gain(rng: np.random.Generator, low_db: float, high_db: float) -> float:
    return 10 ** (rng.uniform(low_db, high_db) / 20)


def _crop(sound: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(0, max(1, len(sound) - samples + 1)))
    return sound[start : start + samples]


def _add(scene: np.ndarray, sound: np.ndarray, position: int) -> None:
    sound = sound[max(0, -position) :][: len(scene) - max(0, position)]
    scene[max(0, position) : max(0, position) + len(sound)] += sound


def _tilted(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies a random spectral tilt, as of another microphone or distance."""
    tilt = rng.uniform(-0.6, 0.6)
    return scipy.signal.lfilter([1, tilt], [1], sound).astype(np.float32)


def _noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """White to brown noise or, with a probability of 1/6, a tone with random modulation of frequency and amplitude."""
    time_s = np.arange(samples) / SAMPLING_RATE
    if rng.random() < 1 / 6:
        start, end = 10 ** rng.uniform(np.log10(50), np.log10(6000), 2)
        tone = scipy.signal.chirp(time_s, start, time_s[-1], end if rng.random() < 0.5 else start)
        tone *= 1 + rng.uniform(0, 1) * np.sin(2 * np.pi * rng.uniform(0.2, 30) * time_s)
        return tone.astype(np.float32) / np.float32(np.std(tone))
    spectrum = np.fft.rfft(rng.standard_normal(samples).astype(np.float32))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** rng.uniform(0, 1.2)
    noise = np.fft.irfft(spectrum, samples)
    return (noise / np.std(noise)).astype(np.float32)


def _coded(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Encodes and decodes a scene with a random lossy codec."""
    format, subtype, compression = CODECS[rng.integers(len(CODECS))]
    file = io.BytesIO()
    options = {} if compression is None else {"compression_level": compression}
    soundfile.write(file, scene, SAMPLING_RATE, format=format, subtype=subtype, **options)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return np.resize(np.pad(decoded, (0, max(0, SCENE_SAMPLES - len(decoded)))), SCENE_SAMPLES)


def make_rooms(path: Path, *, count: int = 200) -> list[np.ndarray]:
    """Impulse responses of shoebox rooms of many sizes and materials, read from `path` or made with pyroomacoustics."""
    if not path.exists():
        import pyroomacoustics

        rng, rooms = np.random.default_rng(0), {}
        for number in range(count):
            size = rng.uniform((3, 3, 2.4), (25, 20, 8))
            material = pyroomacoustics.Material(rng.uniform(0.08, 0.7))
            room = pyroomacoustics.ShoeBox(size, fs=SAMPLING_RATE, materials=material, max_order=14)
            room.add_source(rng.uniform(0.5, size - 0.5))
            room.add_microphone(rng.uniform(0.5, size - 0.5))
            room.compute_rir()
            response = np.asarray(room.rir[0][0], np.float32)
            rooms[f"{number:03d}"] = response / np.abs(response).max()
        with new_file(path, replace=True) as file:
            np.savez(file, **rooms)
    with np.load(path) as rooms:
        return [rooms[name] for name in sorted(rooms.files)]
