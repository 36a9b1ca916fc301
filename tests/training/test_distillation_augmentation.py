# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Chunk, epoch and seed always give the same input, bit by bit, in every process and order."""

import hashlib
import multiprocessing
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ced_model import CedFeatureExtractor
from ced_model.training.distillation.augmentation import (
    Augmentation,
    augmented_log_mel,
    mask_bounds,
    mask_log_mel,
    sample_seed,
    shift_waveform,
)
from ced_model.training.distillation.chunks import ChunkReader, cut_files, find_audio
from ced_model.training.distillation.store import Chunk

PUBLISHED = Augmentation()
NOTHING = Augmentation(max_shift=0.0, max_time_mask=0, max_freq_mask=0)
SEEDS = st.integers(0, 2**31 - 1)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seekable and other files, at several rates, with one to three chunks of 1 s."""
    folder = tmp_path_factory.mktemp("audio")
    generator = np.random.default_rng(0)
    for name, rate, seconds, channels in (
        ("a.wav", 16000, 3.0, 1),
        ("b.flac", 44100, 2.7, 2),
        ("c.ogg", 22050, 3.2, 1),
        ("d.mp3", 48000, 2.1, 1),
        ("e.wav", 11025, 0.4, 1),
    ):
        soundfile.write(folder / name, generator.normal(scale=0.1, size=(int(rate * seconds), channels)), rate)
    return folder


def cut(folder: Path, chunk_samples: int = 16000) -> list[Chunk]:
    return cut_files(find_audio(folder), chunk_samples).chunks


# Seeds


def test_a_seed_is_the_same_on_every_platform() -> None:
    seeds = [sample_seed(*numbers) for numbers in ((0, 0, 0), (0, 1, 0), (0, 0, 1), (7, 2**31, 119), (-1, 5, 5))]
    assert seeds == [1994846881, 248408757, 465607930, 444146679, 2124737438]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_seed_has_31_bits(store_seed: int, chunk: int, epoch: int) -> None:
    assert 0 <= sample_seed(store_seed, chunk, epoch) < 2**31


def test_chunks_and_epochs_have_different_seeds() -> None:
    seeds = {sample_seed(0, chunk, epoch) for chunk in range(100) for epoch in range(100)}
    assert len(seeds) == 10_000
    assert min(seeds) < 2**31 * 0.01 and max(seeds) > 2**31 * 0.99


@pytest.mark.parametrize("numbers", [(2**63, 0, 0), (0, "1", 0), (0, 0.5, 0)])
def test_a_seed_of_other_types_is_refused(numbers: Any) -> None:
    with pytest.raises(ValueError, match="integers of up to 64 bits"):
        sample_seed(*numbers)


@pytest.mark.parametrize(
    ("seed", "bounds", "short", "first"),
    [
        (0, (462, 633, 25, 27), (93, 127, 25, 27), 138086),
        (1, (573, 637, 23, 34), (116, 128, 23, 34), 158109),
        (2**31 - 1, (655, 791, 7, 26), (132, 159, 7, 26), 36664),
        (123456789, (301, 467, 61, 62), (61, 94, 61, 62), 75566),
    ],
)
def test_shifts_and_masks_of_a_seed_are_the_same_on_every_platform(
    seed: int, bounds: Any, short: Any, first: int
) -> None:
    assert mask_bounds(seed, PUBLISHED, 1001, 64) == bounds
    assert mask_bounds(seed, PUBLISHED, 201, 64) == short
    assert shift_waveform(np.arange(160_000), seed, PUBLISHED)[0] == first


# Shift and masks


@given(SEEDS, st.integers(1, 400), st.sampled_from([0.0, 0.1, 0.25, 0.5]))
def test_a_shift_is_circular_and_within_its_limit(seed: int, length: int, max_shift: float) -> None:
    waveform = np.arange(length, dtype=np.float32)
    shifted = shift_waveform(waveform, seed, Augmentation(max_shift=max_shift))
    distance = int(np.flatnonzero(shifted == 0)[0])
    assert min(distance, length - distance) <= max_shift * length
    assert np.array_equal(shifted, np.roll(waveform, distance))


def test_shifts_have_both_directions_and_all_lengths() -> None:
    waveform = np.arange(11)
    starts = {int(shift_waveform(waveform, seed, Augmentation(max_shift=0.3))[0]) for seed in range(500)}
    assert starts == {8, 9, 10, 0, 1, 2, 3}


@given(SEEDS, st.integers(16, 3000), st.integers(1, 128))
def test_masks_are_within_the_log_mel_and_their_limits(seed: int, frames: int, mels: int) -> None:
    bounds = mask_bounds(seed, PUBLISHED, frames, mels)
    assert 0 <= bounds.time_start <= bounds.time_stop <= frames
    assert 0 <= bounds.freq_start <= bounds.freq_stop <= mels
    assert bounds.time_stop - bounds.time_start <= min(192, 0.192 * frames)
    assert bounds.freq_stop - bounds.freq_start <= 24


def test_masks_have_all_widths_and_places() -> None:
    augmentation = Augmentation(chunk_s=0.15, max_time_mask=3, max_freq_mask=2)
    bounds = [mask_bounds(seed, augmentation, 15, 4) for seed in range(3000)]
    times = {(mask.time_start, mask.time_stop) for mask in bounds}
    freqs = {(mask.freq_start, mask.freq_stop) for mask in bounds}
    assert times == {(start, start + width) for width in range(4) for start in range(16 - width)}
    assert freqs == {(start, start + width) for width in range(3) for start in range(5 - width)}
    # They are independent.
    assert {(mask.time_start, mask.freq_start) for mask in bounds} >= {(a, b) for a in range(13) for b in range(3)}


def test_masked_parts_have_the_mean_and_the_rest_is_unchanged() -> None:
    log_mel = torch.randn(64, 1001, generator=torch.Generator().manual_seed(0)) * 20 - 30
    before = log_mel.clone()
    bounds = mask_bounds(1, PUBLISHED, 1001, 64)
    masked = mask_log_mel(log_mel, 1, PUBLISHED)
    is_masked = torch.zeros(64, 1001, dtype=torch.bool)
    is_masked[:, bounds.time_start : bounds.time_stop] = True
    is_masked[bounds.freq_start : bounds.freq_stop] = True
    assert torch.equal(log_mel, before)
    assert torch.equal(masked[~is_masked], log_mel[~is_masked])
    assert masked[is_masked].unique().tolist() == [pytest.approx(log_mel.double().mean().item(), abs=1e-5)]


@settings(max_examples=20)
@given(SEEDS)
def test_an_augmentation_of_zeros_is_the_identity(seed: int) -> None:
    waveform = np.random.default_rng(seed).normal(size=2400).astype(np.float32)
    extractor = CedFeatureExtractor()
    plain = extractor(waveform, sampling_rate=16000)["input_values"][0]
    assert np.array_equal(shift_waveform(waveform, seed, NOTHING), waveform)
    assert torch.equal(augmented_log_mel(waveform, seed, NOTHING, extractor), plain)


def test_an_augmented_log_mel_is_the_masked_log_mel_of_the_shifted_waveform() -> None:
    waveform = np.random.default_rng(0).normal(size=40_000).astype(np.float32)
    extractor = CedFeatureExtractor()
    plain = extractor(shift_waveform(waveform, 5, PUBLISHED), sampling_rate=16000)["input_values"][0]
    assert torch.equal(augmented_log_mel(waveform, 5, PUBLISHED, extractor), mask_log_mel(plain, 5, PUBLISHED))
    assert not torch.equal(augmented_log_mel(waveform, 6, PUBLISHED, extractor), mask_log_mel(plain, 5, PUBLISHED))


# Parameters


def test_parameters_survive_storing() -> None:
    augmentation = Augmentation(chunk_s=4.0, max_shift=0.25, max_time_mask=10, max_freq_mask=0)
    assert Augmentation.from_dict(augmentation.to_dict()) == augmentation
    assert PUBLISHED.to_dict() == {"chunk_s": 10.0, "max_shift": 0.5, "max_time_mask": 192, "max_freq_mask": 24}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_shift": 0.6}, "`max_shift=0.6`: expected a number up to 0.5"),
        ({"max_shift": -0.1}, "`max_shift=-0.1`: expected a number from 0"),
        ({"max_shift": float("nan")}, "`max_shift=nan`"),
        ({"max_time_mask": 1.5}, "`max_time_mask=1.5`: expected a whole number from 0"),
        ({"max_freq_mask": -1}, "`max_freq_mask=-1`"),
        ({"max_freq_mask": True}, "`max_freq_mask=True`"),
        ({"chunk_s": 0.1}, "`chunk_s=0.1`: expected a number from 0.15"),
        ({"chunk_s": "10"}, "`chunk_s='10'`"),
        ({"chunk_s": float("inf")}, "`chunk_s=inf`"),
        ({"chunk_s": 1.0}, r"`max_time_mask=192`: expected at most the frames of 10 ms in `chunk_s` 1"),
    ],
)
def test_invalid_parameters_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**values)


@pytest.mark.parametrize("values", [{}, {"chunk_s": 10.0}, PUBLISHED.to_dict() | {"extra": 1}, None])
def test_stored_parameters_with_other_entries_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="An augmentation has the entries .*'chunk_s'.*, got "):
        Augmentation.from_dict(values)


# Consistency


def make_inputs(folder: Path, chunks: list[Chunk]) -> list[str]:
    """Checksums of the shifted waveform and the masked log-mel of chunks in two epochs."""
    reader, augmentation = ChunkReader(folder, 16000), Augmentation(chunk_s=1.0, max_time_mask=19)
    digests = []
    for epoch in range(2):
        for number, chunk in enumerate(chunks):
            seed = sample_seed(3, number, epoch)
            waveform = reader.read(chunk)
            log_mel = augmented_log_mel(waveform, seed, augmentation, CedFeatureExtractor())
            assert log_mel.is_contiguous() and log_mel.dtype == torch.float32
            shifted = shift_waveform(waveform, seed, augmentation)
            digests.append(hashlib.sha256(shifted.tobytes() + log_mel.numpy().tobytes()).hexdigest())
    return digests


def test_inputs_are_bit_identical_in_another_process_and_with_any_number_of_threads(audio: Path) -> None:
    chunks = cut(audio)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = make_inputs(audio, chunks)
        torch.set_num_threads(4)
        assert make_inputs(audio, chunks) == expected
        assert torch.get_num_threads() == 4  # unchanged
    finally:
        torch.set_num_threads(threads)
    assert len(set(expected)) == 2 * len(chunks) == 24
    # A process independent of this one: it is forked from a server that has imported torch itself.
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        assert pool.apply(make_inputs, (audio, chunks)) == expected


def test_global_random_states_are_neither_read_nor_changed(audio: Path) -> None:
    chunks = cut(audio)

    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore

    before = states()
    expected = make_inputs(audio, chunks)
    assert states() == before
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert make_inputs(audio, chunks) == expected


# Chunks


def lengths(chunks: list[Chunk], path: str) -> list[tuple[int, int]]:
    return [(chunk.start, chunk.num_samples) for chunk in chunks if chunk.path == path]


def test_a_last_piece_of_half_a_chunk_is_kept_and_a_shorter_one_is_left_out(audio: Path) -> None:
    chunks = cut(audio)
    assert lengths(chunks, "a.wav") == [(0, 16000), (16000, 16000), (32000, 16000)]
    assert lengths(chunks, "b.flac") == [(0, 16000), (16000, 16000), (32000, 11200)]
    assert lengths(chunks, "c.ogg") == [(0, 16000), (16000, 16000), (32000, 16000)]
    assert lengths(chunks, "d.mp3")[:2] == [(0, 16000), (16000, 16000)]
    assert lengths(chunks, "e.wav") == [(0, 6400)]  # short, but the complete file
