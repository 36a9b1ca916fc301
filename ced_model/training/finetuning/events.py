# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Training of frame models on strong labels, with targets for each time step of one patch."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...modeling_ced import CedForAudioClassification, CedForAudioFrameClassification
from ...strong_labels import StrongClips, read_strong_labels, strong_clips
from .dataset import ClipDataset


def frame_model(model: CedForAudioClassification) -> CedForAudioFrameClassification:
    """The same weights in a model that scores steps, with `pad_last=False` for steps of equal length."""
    model.config.pad_last = False
    frames = CedForAudioFrameClassification(model.config)
    frames.load_state_dict(model.state_dict())
    return frames.eval()


def read_events(
    data: str | os.PathLike[str] | StrongClips,
    model_labels: Sequence[str],
    audio_root: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
) -> StrongClips:
    """Reads recordings with strong labels as clips; `labels` are the classes, by default those that occur."""
    if isinstance(data, StrongClips):
        return data
    return strong_clips(read_strong_labels(data, audio_root), labels=labels, model_labels=model_labels)


class EventDataset(ClipDataset):
    """
    A [`ClipDataset`] of pieces of recordings, with `labels` of shape `(steps, classes)`, where `steps` is that of the
    longest piece. The pieces cover each recording; in training, they start at different positions in each epoch.

    Args:
        clips, lengths, sampling_rate, max_samples, options: As for [`ClipDataset`].
        step: Length of a step in samples.
    """

    def __init__(
        self,
        clips: StrongClips,
        lengths: Sequence[int],
        sampling_rate: int,
        max_samples: int,
        *,
        step: int,
        **options: Any,
    ) -> None:
        super().__init__(clips, lengths, sampling_rate, max_samples, **options)
        self.events, self.step = clips.events, step
        self.pieces = [
            (clip, max(0, min(start, length - max_samples)))
            for clip, length in enumerate(lengths)
            for start in range(0, max(length, 1), max_samples)
        ]

    @property
    def lengths(self) -> list[int]:
        return [min(self._clip_lengths[clip], self.max_samples) for clip, _ in self.pieces]

    def __len__(self) -> int:
        return len(self.pieces)

    def _start(self, index: int) -> int:
        return self.pieces[index][1]

    def _random_start(self, index: int, generator: np.random.Generator) -> int:
        clip, start = self.pieces[index]
        half = self.max_samples // 2
        shifted = start + int(generator.integers(-half, half + 1))
        return int(np.clip(shifted, 0, max(0, self._clip_lengths[clip] - self.max_samples)))

    def _read(self, index: int, start: int) -> np.ndarray:
        return super()._read(self.pieces[index][0], start)

    def _targets(self, index: int, start: int) -> np.ndarray:
        """A class is present in steps of which its event covers at least half, and in the step at its middle."""
        targets = np.zeros((-(-self.max_samples // self.step), len(self.clips.labels)), np.float32)
        step_s, start_s = self.step / self.sampling_rate, start / self.sampling_rate
        for onset_s, offset_s, label in self.events[self.pieces[index][0]]:
            onset, offset = ((time_s - start_s) / step_s for time_s in (onset_s, offset_s))
            middle = int(np.floor((onset + offset) / 2))
            first, end = min(round(onset), middle), max(round(offset), middle + 1)
            targets[max(first, 0) : max(end, 0), label] = 1
        return targets

    def all_targets(self) -> np.ndarray:
        """The targets of all steps, of shape `(steps, classes)`."""
        steps = [-(-length // self.step) for length in self.lengths]
        return np.concatenate([self._targets(index, self._start(index))[:number] for index, number in enumerate(steps)])
