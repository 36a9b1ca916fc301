# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Splits recordings into windows for a model, for `AudioTagger` and the pipeline."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from .audio import check_channel, check_rate, read_blocks
from .audio_inputs import describe
from .log_mel import FrontEnd, SharedFrames, log_mel
from .messages import OptionError, check_number
from .scheduling import Window, check_peaks, cut_windows

CLIP_WINDOW_S = 10.0  # windows of long clips: the length that the published models were trained on
TIMELINE_WINDOW_S = 2.0
CPU_BATCH_SIZE = 4  # windows; more do not fit into the CPU cache
GPU_BATCH_SIZE = 32
LEVEL_S = 0.1  # for the measurement of loudness

MAX_MAGNITUDE = float(np.finfo(np.float32).max) ** 0.5  # of a spectrum: its square must still be a float32

ReadWindows = Callable[[Any], Iterator[Window]]


@dataclass(frozen=True)
class ModelWindows:
    """
    Splits recordings into windows for one model.

    Attributes:
        front_end: The front end of the model.
        target_length: Maximum number of frames per window.
        patch_size: Frames per patch.
    """

    front_end: FrontEnd
    target_length: int
    patch_size: int

    @property
    def max_samples(self) -> int:
        """Length of the longest window in samples."""
        return self.front_end.max_samples(self.target_length)

    @property
    def step_samples(self) -> int:
        """Length of a time step (one patch) in samples."""
        return self.patch_size * self.front_end.hop_size

    def of_clips(
        self,
        window_s: float | None,
        hop_s: float | None,
        sampling_rate: int | None,
        channel: str | int,
        average: str = "mean",
    ) -> ReadWindows:
        """
        Returns a function that reads a clip in one window if it is short enough, else in windows of 10 s without
        overlap.

        Args:
            window_s, hop_s: Length of windows and distance between their starts, for clips of any length.
            sampling_rate: Sampling rate of bare arrays in Hz, by default that of the model.
            channel: As for [`read_blocks`].
            average: With `"max"`, the default windows are 2 s long and start every second, to find short sounds.

        Raises:
            OptionError: for invalid windows.
        """
        if average == "max" and window_s is None:
            window_s = min(TIMELINE_WINDOW_S, self.max_samples / self.front_end.sampling_rate)
            hop_s = window_s / 2 if hop_s is None else hop_s
        length_s = min(CLIP_WINDOW_S, self.max_samples / self.front_end.sampling_rate) if window_s is None else window_s
        window, hop = self.to_samples(length_s, length_s if hop_s is None else hop_s)
        if sampling_rate is not None:
            check_rate("sampling_rate", sampling_rate)
        return partial(
            self._read,
            window=window,
            hop=hop,
            fits_whole=window_s is None and hop_s is None,
            array_sampling_rate=sampling_rate,
            channel=check_channel(channel),
        )

    def of_timelines(
        self, window_s: float, hop_s: float | None, sampling_rate: int | None, channel: str | int
    ) -> ReadWindows:
        """Returns a function that reads a recording for a timeline. Arguments and errors are those of `of_clips`."""
        check_number("window_s", window_s)
        return self.of_clips(window_s, window_s / 2 if hop_s is None else hop_s, sampling_rate, channel)

    def to_samples(self, window_s: float, hop_s: float) -> tuple[int, int]:
        """Length of the windows and distance between their starts in samples. Errors are those of `of_clips`."""
        for name, value in (("window_s", window_s), ("hop_s", hop_s)):
            check_number(name, value)
            if not math.isfinite(value):
                raise OptionError(name, value, "a length in seconds")
        rate = self.front_end.sampling_rate
        window, hop = round(window_s * rate), round(hop_s * rate)
        window -= window == self.max_samples + 1  # the 10.12 s of the message below are one sample too long
        if not self.front_end.min_samples <= window <= self.max_samples:
            bounds = f"{self.front_end.min_samples / rate:.3g} to {self.max_samples / rate:.4g} seconds"
            raise OptionError("window_s", window_s, f"{bounds}, the range of this model")
        if not 0 < hop <= window:
            wanted = f"more than 0 and at most the window of {window_s:g} seconds, so that no audio is left out"
            raise OptionError("hop_s", hop_s, wanted)
        return window, hop

    def _read(self, source: Any, *, window: int, hop: int, fits_whole: bool, **how: Any) -> Iterator[Window]:
        """Windows of one input; with `fits_whole`, an input of up to `max_samples` is one window."""
        name = describe(source)
        blocks = iter(read_blocks(source, sampling_rate=self.front_end.sampling_rate, **how))
        if not fits_whole:
            return self.cut(blocks, window, hop, name)
        beginning: list[np.ndarray] = []
        while sum(map(len, beginning)) <= self.max_samples:
            block = next(blocks, None)
            if block is None:
                return self.cut(beginning, self.max_samples, self.max_samples, name)
            beginning.append(block)
        return self.cut(chain(beginning, blocks), window, hop, name)

    def cut(
        self, blocks: Iterable[np.ndarray], window: int, hop: int, name: str, gate_dbfs: float | None = None
    ) -> Iterator[Window]:
        """Windows of audio with finite features. Windows below the gate have no features (`is_quiet`)."""
        front_end = self.front_end
        blocks = check_peaks(blocks, MAX_MAGNITUDE / front_end.n_fft, front_end.sampling_rate, name)
        windows = cut_windows(blocks, window, hop, front_end.min_samples, self.max_samples)
        if gate_dbfs is not None:
            windows = (each._replace(is_quiet=self._level_dbfs(each.waveform) < gate_dbfs) for each in windows)
        return windows if hop == window or hop % front_end.hop_size else self._sharing_frames(windows)

    def _level_dbfs(self, waveform: np.ndarray) -> float:
        """Level of the loudest 0.1 s: RMS relative to 1.0 in dB, so a full-scale sine has -3 dBFS."""
        size = min(round(LEVEL_S * self.front_end.sampling_rate), max(1, len(waveform)))
        parts = waveform[: len(waveform) // size * size].reshape(-1, size)
        power = np.einsum("ij,ij->i", parts, parts).max(initial=0.0) / size
        return 10 * math.log10(max(power, 1e-20))

    def _sharing_frames(self, windows: Iterable[Window]) -> Iterator[Window]:
        """Adds log-mel spectrograms to overlapping windows, with each frame computed only once."""
        shared = SharedFrames(self.front_end)
        for window in windows:
            samples = len(window.waveform)
            is_whole = samples >= self.front_end.min_samples and window.start % self.front_end.hop_size == 0
            if is_whole and not window.is_quiet:
                frames = self.patches(samples) * self.patch_size
                window = window._replace(log_mel=shared.log_mel(window.start, window.waveform)[:, :frames])
            yield window

    def patches(self, num_samples: int) -> int:
        """Number of patches in time of a window with `num_samples` samples."""
        return self.front_end.num_frames(max(num_samples, self.front_end.min_samples)) // self.patch_size

    def features(self, contents: list[np.ndarray]) -> np.ndarray:
        """
        Input of the model: float32 `(windows, n_mels, frames)`.

        Args:
            contents: Windows with the same number of patches, as waveforms or as log-mel spectrograms.
        """
        return np.stack([content if content.ndim == 2 else self._log_mel(content) for content in contents])

    def _log_mel(self, waveform: np.ndarray) -> np.ndarray:
        frames = self.patches(len(waveform)) * self.patch_size
        waveform = np.pad(waveform, (0, max(0, self.front_end.min_samples - len(waveform))))
        return log_mel(waveform, self.front_end)[:, :frames]
