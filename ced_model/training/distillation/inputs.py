# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The inputs of the student: the same as those of the teachers, with the teachers' outputs as targets.

An input is computed in the workers of a `DataLoader` and depends only on its epoch and chunk, not on the order,
batches, or the number of workers or processes.
"""

import hashlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ...feature_extraction_ced import AMIN, CedFeatureExtractor
from .augmentation import augmented_log_mel, one_thread, sample_seed
from .chunks import ChunkReader
from .front_ends import collate_log_mels
from .store import Store, read_shard, restore_probabilities


class Split(NamedTuple):
    """Indices of the training chunks and the held-out chunks, int64, in ascending order."""

    training: np.ndarray
    held_out: np.ndarray


def split_by_file(store: Store, share: float) -> Split:
    """
    Holds out files with about `share` of the chunks.

    Files are chosen by a hash of their paths, so that they are the same for other students, seeds and stores. A single
    file is never held out.
    """
    chunks = np.arange(store.num_chunks)
    paths = store.chunks["path"].combine_chunks().dictionary_encode()
    file_of, names = paths.indices.to_numpy(), paths.dictionary.to_pylist()
    counts = np.bincount(file_of)
    if share == 0 or len(names) < 2:
        return Split(chunks, chunks[:0])
    chosen: list[int] = []
    for file in sorted(range(len(names)), key=lambda file: _hash(names[file])):
        if counts[[*chosen, file]].sum() <= share * len(chunks):
            chosen.append(file)
    if not chosen:  # each file has a larger share
        chosen = [int(counts.argmin())]
    is_held_out = np.isin(file_of, chosen)
    return Split(chunks[~is_held_out], chunks[is_held_out])


def _hash(path: str) -> bytes:
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class StoredRows:
    """
    The teachers' outputs by epoch and chunk, in memory (84 bytes per row).

    Attributes:
        seeds: int32 of shape `(rows,)`.
        values: float16 of shape `(rows, k)`.
        indices: int16 of shape `(rows, k)`.
    """

    def __init__(self, store: Store) -> None:
        shards = [read_shard(store.path, shard, store.manifest) for shard in store.shards()]
        self.seeds, self.values, self.indices = map(np.concatenate, zip(*shards, strict=True))
        self._num_chunks, self._num_epochs = store.num_chunks, store.num_epochs

    def position(self, chunk: int, epoch: int) -> int:
        """The row of a chunk in a training epoch. After the epochs of the store, they start again with the first."""
        return epoch % self._num_epochs * self._num_chunks + chunk


class DistillationDataset(Dataset):
    """
    Chunks as items `{"input_values": float32 (mels, frames), "labels": float32 (classes,)}`.

    A key is `(epoch, index)`, or an index for the first epoch.

    Args:
        store: The chunks and their augmentation.
        rows: The teachers' outputs.
        chunks: Indices of the chunks to use.
        feature_extractor: The student's, with the same log-mels as the store's front end.
        audio_root: The folder that the chunks' paths are relative to, by default the one in the store's manifest.
        consistent: Whether the student gets the same inputs as the teachers, or with a different augmentation.
        mixup: The parameter α of mixup, see `mix_log_mels`; 0 for none.
        seed: Seed of mixup, and of the augmentation if not `consistent`.
    """

    def __init__(
        self,
        store: Store,
        rows: StoredRows,
        chunks: np.ndarray,
        feature_extractor: CedFeatureExtractor,
        *,
        audio_root: str | os.PathLike[str] | None = None,
        consistent: bool = True,
        mixup: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.store = store
        self.rows = rows
        self.chunks = chunks
        self.feature_extractor = feature_extractor
        self.reader = ChunkReader(audio_root or store.audio_root, store.augmentation.chunk_samples)
        self.consistent = consistent
        self.mixup = mixup
        self.seed = seed

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, number = key if isinstance(key, tuple) else (0, key)
        chunk = int(self.chunks[number])
        log_mel, labels = self._example(chunk, epoch)
        if self.mixup > 0:
            generator = np.random.default_rng([self.seed, epoch, chunk, 1])
            weight = float(generator.beta(self.mixup, self.mixup))
            other = int(self.chunks[generator.integers(len(self))])
            other_log_mel, other_labels = self._example(other, epoch)
            weight = max(weight, 1 - weight)
            log_mel = mix_log_mels(log_mel, other_log_mel, weight)
            labels = weight * labels + (1 - weight) * other_labels
        return {"input_values": log_mel, "labels": labels}

    def _example(self, chunk: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-mel of a chunk in an epoch, and the teachers' probabilities of all classes."""
        row = self.rows.position(chunk, epoch)
        seed = int(self.rows.seeds[row]) if self.consistent else sample_seed(-1 - self.seed, chunk, epoch)
        waveform = self.reader.read(self.store.chunk(chunk))
        log_mel = augmented_log_mel(waveform, seed, self.store.augmentation, self.feature_extractor)
        values, indices = self.rows.values[row, None], self.rows.indices[row, None]
        return log_mel, restore_probabilities(values, indices, len(self.store.labels))[0]


def mix_log_mels(log_mel: torch.Tensor, other: torch.Tensor, weight: float) -> torch.Tensor:
    """
    Mixup (https://arxiv.org/abs/1710.09412) of two log-mels in decibels.

    Powers are added, as for uncorrelated sounds, so that each keeps its own masks; mixed waveforms would have to share
    them.

    Args:
        log_mel: Log-mel of shape `(mels, frames)`.
        other: Log-mel of shape `(mels, other frames)`; cut or padded to the length of the first.
        weight: Weight of the first one's power, from 0 to 1; the other one has the rest.

    Returns:
        float32 of the first one's shape.
    """
    with one_thread():  # elementwise functions may differ at the boundaries between threads
        power = weight * 10 ** (log_mel / 10)
        frames = min(log_mel.shape[1], other.shape[1])
        power[:, :frames] += (1 - weight) * 10 ** (other[:, :frames] / 10)
        return 10 * power.clamp(min=AMIN).log10()


def collate(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Collates items of a [`DistillationDataset`], with an `attention_mask` if their lengths differ."""
    inputs = collate_log_mels([item["input_values"] for item in items])
    return {**inputs, "labels": torch.stack([item["labels"] for item in items])}


@torch.no_grad()
def set_input_statistics(norm: nn.BatchNorm2d, batches: Iterable[dict[str, torch.Tensor]]) -> None:
    """
    Sets running mean and variance of the model's `init_bn` to those of the valid frames in `batches`.

    With a momentum of 0.01, the initial zeros and ones would affect evaluations during the first 500 steps.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    count = 0
    total, total_squares = torch.zeros(2, len(norm.running_mean), dtype=torch.float64)
    for batch in batches:
        values = batch["input_values"].double()
        mask = batch.get("attention_mask", torch.ones(len(values), values.shape[2])).double().unsqueeze(1)
        count += int(mask.sum())
        total += (values * mask).sum(dim=(0, 2))
        total_squares += (values.square() * mask).sum(dim=(0, 2))
    mean = total / count
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(total_squares / count - mean.square())
