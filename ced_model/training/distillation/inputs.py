# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What the student is given: the teachers' inputs, made again from chunk and seed, and what the teachers said of them.

An input is made in the workers of a `DataLoader` from its epoch and chunk alone, so neither the order, nor batches, nor
the number of workers or processes matter.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Sampler

from ...feature_extraction_ced import AMIN, CedFeatureExtractor
from .augmentation import augmented_log_mel, one_thread, sample_seed
from .chunks import ChunkReader
from .front_ends import collate_log_mels
from .store import Store, read_shard, restore_probabilities, top_k_of

GROUPED_BATCHES = 32  # whose chunks are sorted by length: the more, the less padding and chance there is
MIXUP = 1  # tells the generator of mixup from others of the same seed, epoch and chunk


class Split(NamedTuple):
    """Numbers of the chunks to train on and of those held out, int64, each in ascending order."""

    training: np.ndarray
    held_out: np.ndarray


def split_by_file(store: Store, rows: "StoredRows", share: float) -> Split:
    """
    Holds whole files out, with about `share` of the chunks that have been taught.

    The files are chosen by a hash of their paths, so that another student, seed or store of the same files has the same
    ones held out. A single file is never held out, nor is the last one.

    Raises:
        ValueError: if `share` is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"`held_out` is the part of the chunks to hold out: 0 to below 1, got {share}.")
    taught = np.flatnonzero(rows.is_taught)
    paths = store.chunks["path"].combine_chunks().dictionary_encode()
    file_of = paths.indices.to_numpy()[taught]
    counts = np.bincount(file_of, minlength=len(paths.dictionary))
    files = np.flatnonzero(counts).tolist()
    if share == 0 or len(files) < 2:
        return Split(taught, taught[:0])
    wanted = share * len(taught)
    chosen: list[int] = []
    held_out = 0
    for file in sorted(files, key=lambda file: _hash(paths.dictionary[file].as_py())):
        if held_out + counts[file] <= wanted:
            chosen.append(file)
            held_out += int(counts[file])
    if not chosen:  # every file has more than the wanted part
        chosen = [min(files, key=lambda file: counts[file])]
    is_held_out = np.isin(file_of, chosen)
    return Split(taught[~is_held_out], taught[is_held_out])


def _hash(path: str) -> bytes:
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class StoredRows:
    """
    What the teachers said, by chunk and epoch, in memory: 84 bytes a row. The store may be unfinished.

    Attributes:
        seeds: int32 of shape `(rows,)`.
        values: float16 of shape `(rows, k)`.
        indices: int16 of shape `(rows, k)`.
        is_taught: Whether a chunk has a row in any epoch; bool of shape `(chunks,)`.
    """

    def __init__(self, store: Store) -> None:
        self._shard_chunks: int = store.manifest["shard_chunks"]
        shards, missing = store.shards(), set(store.missing)
        rows = sum(shard.stop - shard.start for shard in shards if shard not in missing)
        k = top_k_of(store.manifest)
        self.seeds = np.empty(rows, np.int32)
        self.values, self.indices = np.empty((rows, k), np.float16), np.empty((rows, k), np.int16)
        per_epoch = len(shards) // store.num_epochs
        self._offsets = np.full((store.num_epochs, per_epoch), -1)  # of the first row of each shard
        start = 0
        for number, shard in enumerate(shards):
            if shard not in missing:
                stop = start + shard.stop - shard.start
                read = read_shard(store.path, shard, store.manifest)
                self.seeds[start:stop], self.values[start:stop], self.indices[start:stop] = read
                self._offsets[divmod(number, per_epoch)] = start
                start = stop
        has_rows = np.any(self._offsets >= 0, axis=0, keepdims=True)[0]
        self.is_taught = has_rows[np.arange(store.num_chunks) // self._shard_chunks]

    def position(self, chunk: int, epoch: int) -> int:
        """
        The row of a chunk in a training epoch, of any number: epochs beyond those of the store begin again with the
        first. In an unfinished store a chunk goes round in the epochs that it has.
        """
        shard, place = divmod(chunk, self._shard_chunks)
        offsets = self._offsets[:, shard]
        if offsets.min() < 0:
            offsets = offsets[offsets >= 0]
        return int(offsets[epoch % len(offsets)]) + place


class DistillationDataset(Dataset):
    """
    Chunks as items `{"input_values": float32 (mels, frames), "labels": float32 (classes,)}`.

    A key is `(epoch, number)`, or a number alone for the first epoch.

    Args:
        store: Where the chunks are, and how they were altered.
        rows: What the teachers said.
        chunks: Numbers of the chunks in the store that take part.
        feature_extractor: Of the student; it makes the same log-mels as the store's front end.
        audio_root: The folder that the chunks' paths are relative to; by default the one that the store names.
        consistent: Whether the student hears what the teachers heard. If not, it draws augmentations of its own.
        leftover: What classes get whose probabilities were not stored, see `restore_probabilities`.
        mixup: The parameter α of mixup, see `mix_log_mels`; 0 for none.
        seed: Decides mixup, and the augmentation of students that are not consistent.
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
        leftover: Literal["zero", "even"] = "zero",
        mixup: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.store = store
        self.rows = rows
        self.chunks = chunks
        self.feature_extractor = feature_extractor
        self.reader = ChunkReader(audio_root or store.audio_root, store.augmentation.chunk_samples)
        self.consistent = consistent
        self.leftover = leftover
        self.mixup = mixup
        self.seed = seed

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, number = key if isinstance(key, tuple) else (0, key)
        chunk = int(self.chunks[number])
        log_mel, labels = self._example(chunk, epoch)
        if self.mixup > 0:
            generator = np.random.default_rng([self.seed, epoch, chunk, MIXUP])
            weight = float(generator.beta(self.mixup, self.mixup))
            other = int(self.chunks[generator.integers(len(self))])
            other_log_mel, other_labels = self._example(other, epoch)
            weight = max(weight, 1 - weight)
            log_mel = mix_log_mels(log_mel, other_log_mel, weight)
            labels = weight * labels + (1 - weight) * other_labels
        return {"input_values": log_mel, "labels": labels}

    def _example(self, chunk: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-mel of a chunk as the teachers had it in an epoch, and the probabilities of all classes."""
        row = self.rows.position(chunk, epoch)
        seed = int(self.rows.seeds[row]) if self.consistent else sample_seed(-1 - self.seed, chunk, epoch)
        waveform = self.reader.read(self.store.chunk(chunk))
        log_mel = augmented_log_mel(waveform, seed, self.store.augmentation, self.feature_extractor)
        values, indices = self.rows.values[row, None], self.rows.indices[row, None]
        return log_mel, restore_probabilities(values, indices, len(self.store.labels), self.leftover)[0]


def mix_log_mels(log_mel: torch.Tensor, other: torch.Tensor, weight: float) -> torch.Tensor:
    """
    Mixup (https://arxiv.org/abs/1710.09412) of two log-mels in decibels, as if both sounded at once.

    Powers are added, which is what happens to sounds that have nothing to do with each other. So both are there exactly
    as the teachers heard them, each behind its own masks; mixed waveforms would have to share theirs.

    Args:
        log_mel: of shape `(mels, frames)`.
        other: of shape `(mels, other frames)`; it is cut, or ends early.
        weight: of the first one's power, from 0 to 1; the other one has the rest.

    Returns:
        float32 of the first one's shape.
    """
    with one_thread():  # elementwise functions may differ at the seams between threads
        power = weight * 10 ** (log_mel / 10)
        frames = min(log_mel.shape[1], other.shape[1])
        power[:, :frames] += (1 - weight) * 10 ** (other[:, :frames] / 10)
        return 10 * power.clamp(min=AMIN).log10()


def collate(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Items of a [`DistillationDataset`] as a batch, with an `attention_mask` if their lengths differ."""
    inputs = collate_log_mels([item["input_values"] for item in items])
    return {**inputs, "labels": torch.stack([item["labels"] for item in items])}


class EpochSampler(Sampler[tuple[int, int]]):
    """
    The keys of a [`DistillationDataset`] in a random order that the seed and the epoch decide, with chunks of about the
    same length in a batch: what pads a batch costs as much as what is in it.

    The epoch travels with the key: workers that outlive an epoch hold copies of the data set.

    Attributes:
        lengths: Of the chunks, of shape `(chunks,)`.
        batch_size: Of all processes together.
        seed: Decides the order.
        epoch: Set it at the beginning of each.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for number in self._order(np.random.default_rng([self.seed, epoch])):
            yield epoch, int(number)

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        order = generator.permutation(len(self))
        num_batches, rest = divmod(len(self), self.batch_size)
        batches = order[: len(self) - rest].reshape(num_batches, self.batch_size)
        for start in range(0, num_batches, GROUPED_BATCHES):
            group = batches[start : start + GROUPED_BATCHES].ravel()
            by_length = group[np.argsort(self.lengths[group], kind="stable")]
            batches[start : start + GROUPED_BATCHES] = by_length.reshape(-1, self.batch_size)
        return np.concatenate([generator.permutation(batches).ravel(), order[len(self) - rest :]])


@torch.no_grad()
def set_input_statistics(norm: nn.BatchNorm2d, batches: Iterable[dict[str, torch.Tensor]]) -> None:
    """
    Gives the model's `init_bn` the statistics of `batches`, valid frames only, as running mean and variance.

    With its momentum of 0.01 it would need 500 steps to forget the zeros and ones that it begins with, and whatever is
    evaluated before is not what was trained.
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
