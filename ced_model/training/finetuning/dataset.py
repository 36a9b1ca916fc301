# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Data set and collator of labelled clips for transformers' `Trainer`.

Clips are decoded in the workers of the `DataLoader`, cropped at random if they are long, optionally mixed and masked,
and padded as log-mels with an attention mask. Random numbers for a clip depend only on the seed, the epoch and the
clip's index, not on the order, batches, or the number of workers or processes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ...audio import AudioError, describe, read_blocks
from ...feature_extraction_ced import CedFeatureExtractor
from ...labelled import SINGLE_LABEL, LabelledClips
from ..distillation.augmentation import Augmentation, mask_log_mel, sample_seed

audio_logger = logging.getLogger("ced_model.audio")

BLOCK_S = 10.0  # length of decoded blocks
# Widths of the masks; the time mask of a clip shorter than 10 s is proportionally narrower (paper, section 2).
MASKS = Augmentation(chunk_s=10.0, max_shift=0.0, max_time_mask=192, max_freq_mask=24)


class ClipDataset(Dataset):
    """
    Clips as items `{"waveform": float32 (samples,), "labels": tensor, "seed": int or None}` for a [`ClipCollator`].

    A key is `(epoch, index)`, or an index alone for the first epoch.

    Args:
        clips: The clips.
        lengths: Their lengths in samples, from [`check_clips`].
        sampling_rate: Sampling rate of the waveforms in Hz.
        max_samples: Longer clips are cropped to this length.
        seed: Seed for training: clips are cropped at random, differently in each epoch. Without it, they are cropped to
            their first `max_samples`, and not mixed or masked.
        mixup: The parameter α of mixup (https://arxiv.org/abs/1710.09412), which mixes clips and their labels in
            proportions drawn from Beta(α, α); 0 for none.
    """

    def __init__(
        self,
        clips: LabelledClips,
        lengths: Sequence[int],
        sampling_rate: int,
        max_samples: int,
        *,
        seed: int | None = None,
        mixup: float = 0.0,
    ) -> None:
        self.clips = clips
        self.sampling_rate = sampling_rate
        self.max_samples = max_samples
        self.seed = seed
        self.mixup = mixup
        self._clip_lengths = list(lengths)

    @property
    def lengths(self) -> list[int]:
        """Samples of each item."""
        return [min(length, self.max_samples) for length in self._clip_lengths]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.seed is None:
            start = self._start(index)
            return {"waveform": self._read(index, start), "labels": self._labels(index, start), "seed": None}
        seed = sample_seed(self.seed, index, epoch)
        generator = np.random.default_rng(seed)
        start = self._random_start(index, generator)
        waveform = self._read(index, start)
        if not self.mixup:
            return {"waveform": waveform, "labels": self._labels(index, start), "seed": seed}
        other = int(generator.integers(len(self)))
        other_start = self._random_start(other, generator)
        weight = float(generator.beta(self.mixup, self.mixup))
        mixed = mix(waveform, self._read(other, other_start), weight)
        targets = weight * self._targets(index, start) + (1 - weight) * self._targets(other, other_start)
        return {"waveform": mixed, "labels": torch.from_numpy(targets.astype(np.float32)), "seed": seed}

    def _random_start(self, index: int, generator: np.random.Generator) -> int:
        return int(generator.integers(max(0, self._clip_lengths[index] - self.max_samples) + 1))

    def _start(self, index: int) -> int:
        """The start of an item in samples, without randomness."""
        return 0

    def _targets(self, index: int, start: int) -> np.ndarray:
        """The targets of an item that starts at the sample `start`."""
        return self.clips.targets[index]

    def _labels(self, index: int, start: int) -> torch.Tensor:
        targets = self._targets(index, start)
        if self.clips.problem_type == SINGLE_LABEL:
            return torch.tensor(int(targets.argmax()))
        return torch.from_numpy(targets)

    def _read(self, index: int, start: int) -> np.ndarray:
        path = self.clips.paths[index]
        waveform = _read_part(path, start, start + self.max_samples, self.sampling_rate)
        if not len(waveform):  # damaged before this part, or shorter than according to its header
            waveform = _read_part(path, 0, self.max_samples, self.sampling_rate)
        if not len(waveform):
            raise AudioError(f"{describe(path)}: could be read before, but not now")
        return waveform


def mix(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """`weight` · first + (1 − `weight`) · second waveform, which is cut or padded to the length of the first."""
    mixed = np.float32(weight) * first
    common = min(len(first), len(second))
    mixed[:common] += np.float32(1 - weight) * second[:common]
    return mixed


def _read_part(path: str, start: int, stop: int, sampling_rate: int) -> np.ndarray:
    """Samples `[start, stop)` of a file, or fewer if it ends or is damaged before."""
    parts = [np.empty(0, np.float32)]
    position = 0
    with _each_warning_once():
        try:
            with closing(read_blocks(path, sampling_rate=sampling_rate, block_s=BLOCK_S)) as blocks:  # type: ignore[type-var]
                for block in blocks:
                    parts.append(block[max(0, start - position) : stop - position])
                    position += len(block)
                    if position >= stop:
                        break
        except (AudioError, OSError) as error:
            audio_logger.warning("%s; the audio before that is used", error)
    return np.concatenate(parts)


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Suppresses repeated warnings, since a damaged clip is read in each epoch."""
    audio_logger.addFilter(_is_new)
    try:
        yield
    finally:
        audio_logger.removeFilter(_is_new)


def _is_new(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    is_new = message not in _warned
    _warned.add(message)
    return is_new


_warned: set[str] = set()


class ClipCollator:
    """
    Collates items of a [`ClipDataset`] to `input_values`, `labels` and, if clips were padded, an `attention_mask`.

    Args:
        feature_extractor: Computes the log-mels and pads them.
        masks: Whether to apply a time mask and a frequency mask to each training clip (SpecAugment).
        patch_size: Frames per step, for labels of steps; those of padding are -1.
    """

    def __init__(self, feature_extractor: CedFeatureExtractor, *, masks: bool = False, patch_size: int = 16) -> None:
        self.feature_extractor = feature_extractor
        self.masks = masks
        self.patch_size = patch_size

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        waveforms = [item["waveform"] for item in items]
        batch = dict(self.feature_extractor(waveforms, sampling_rate=self.feature_extractor.sampling_rate))
        if self.masks:
            self._mask(batch["input_values"], items)
        labels = torch.stack([item["labels"] for item in items])
        if labels.ndim == 3:
            labels = labels[:, : batch["input_values"].shape[-1] // self.patch_size]
            for row, item in zip(labels, items, strict=True):
                row[self._frames(item) // self.patch_size :] = -1
        batch["labels"] = labels
        return batch

    def _frames(self, item: dict[str, Any]) -> int:
        extractor = self.feature_extractor
        return extractor.num_frames(max(len(item["waveform"]), extractor.min_samples))

    def _mask(self, input_values: torch.Tensor, items: list[dict[str, Any]]) -> None:
        for values, item in zip(input_values, items, strict=True):
            if item["seed"] is not None:
                frames = self._frames(item)
                values[:, :frames] = mask_log_mel(values[:, :frames], item["seed"], MASKS)
