# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Teaching stores the outputs of all kinds of teachers, also after interruptions and with several processes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from cli_process import start
from torch.utils.data import DataLoader
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForSequenceClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)
from typer.testing import CliRunner

from ced_model import AudioError, CedConfig, CedFeatureExtractor, CedForAudioClassification
from ced_model.audio import read_audio
from ced_model.cli.app import app
from ced_model.training.distillation.augmentation import (
    Augmentation,
    augmented_log_mel,
    mask_bounds,
    sample_seed,
    shift_waveform,
)
from ced_model.training.distillation.chunks import ChunkReader, cut_file, cut_files, find_audio, is_seekable
from ced_model.training.distillation.front_ends import MaskRegion, mask_region, mask_spectrogram, mel_grid
from ced_model.training.distillation.store import SHARDS, Chunk, Shard, Store, open_store, restore_probabilities
from ced_model.training.distillation.teachers import load_teacher, load_teachers
from ced_model.training.distillation.teaching import TeachingInputs, TeachingProgress, overhead, plan_batches, teach

REPOSITORY = Path(__file__).parents[2]
LABELS = {index: f"class {index}" for index in range(13)}
SHORT = Augmentation(chunk_s=1.0, max_time_mask=19)

# A callable that records its inputs, and returns values that depend on them.
CALLABLE = '''
import time
import numpy as np

class Loudness:
    """Probabilities that tell the waveform's first samples and loudness."""

    labels = [f"class {index}" for index in range(13)]

    def __call__(self, waveforms):
        assert waveforms.dtype == np.float32 and waveforms.ndim == 2
        return np.abs(np.concatenate([waveforms[:, :12], waveforms.std(axis=1, keepdims=True)], axis=1))

class Slow(Loudness):
    def __call__(self, waveforms):
        time.sleep(0.1)
        return super().__call__(waveforms)

loudness = Loudness()

class Logits(Loudness):
    def __call__(self, waveforms):
        return np.full((len(waveforms), 13), -3.0)

class NotANumber(Loudness):
    def __call__(self, waveforms):
        return np.full((len(waveforms), 13), np.nan)

class Integers(Loudness):
    def __call__(self, waveforms):
        return np.ones((len(waveforms), 13), int)

class Transposed(Loudness):
    def __call__(self, waveforms):
        return np.ones((13, len(waveforms)))

class Failing(Loudness):
    def __init__(self):
        raise RuntimeError("no weights")

class Renamed(Loudness):
    labels = ["another", *Loudness.labels[1:]]

class Fewer(Loudness):
    labels = Loudness.labels[:12]

class Twice(Loudness):
    labels = ["class 0", *Loudness.labels[:12]]

class NoLabels(Loudness):
    labels = None

number = 5
'''


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seekable and other files with one to three chunks of 1 s, and some that are not audio."""
    folder = tmp_path_factory.mktemp("audio")
    (folder / "sub").mkdir()
    generator = np.random.default_rng(0)
    for name, rate, seconds, channels in (
        ("a.wav", 16000, 3.0, 1),
        ("b.flac", 44100, 2.7, 2),
        ("c.ogg", 22050, 3.2, 1),
        ("d.mp3", 48000, 2.1, 1),
        ("sub/e.wav", 11025, 0.4, 1),
        ("sub/ü.wav", 8000, 1.0, 1),
    ):
        soundfile.write(folder / name, generator.normal(scale=0.1, size=(int(rate * seconds), channels)), rate)
    (folder / "bad.wav").write_text("not audio")
    (folder / "empty.flac").touch()
    soundfile.write(folder / "tiny.wav", np.zeros(100), 16000)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CED of 13 classes, with weights that give probabilities over the complete range."""
    return save_ced(tmp_path_factory.mktemp("teachers") / "ced", seed=0)


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of Python callables."""
    file = tmp_path_factory.mktemp("functions") / "functions.py"
    file.write_text(CALLABLE)
    return file


@pytest.fixture(scope="module")
def taught(audio: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three epochs of the files in shards of five chunks."""
    path = tmp_path_factory.mktemp("stores") / "taught"
    return teach(audio, [str(teacher)], path, epochs=3, augmentation=SHORT, batch_size=4, shard_chunks=5)


def save_ced(folder: Path, seed: int, **config: Any) -> Path:
    torch.manual_seed(seed)
    model = CedForAudioClassification(CedConfig(embed_dim=24, depth=1, num_heads=3, id2label=LABELS, **config))
    torch.nn.init.normal_(model.outputlayer[1].weight, std=1.0)
    model.save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    return folder


def rows(store: Store | Path) -> dict[str, list[Any]]:
    """All rows of a store by shard, finished or not."""
    path = store.path if isinstance(store, Store) else store
    return {file.name: pq.read_table(file).to_pylist() for file in sorted((path / SHARDS).glob("[!.]*"))}


def restored(store: Store) -> Iterator[tuple[int, Chunk, np.ndarray]]:
    """Seed, chunk and probabilities of all rows."""
    for row in store.dataset(keep_in_memory=True):
        values = restore_probabilities(np.array([row["values"]]), np.array([row["indices"]]), len(store.labels))
        yield row["seed"], store.chunk(row["chunk"]), values[0].numpy()


def read(store: Store, chunk: Chunk) -> np.ndarray:
    return ChunkReader(store.audio_root, store.augmentation.chunk_samples).read(chunk)


# Chunks


def test_a_last_piece_of_half_a_chunk_is_kept_and_a_shorter_one_is_left_out(audio: Path) -> None:
    def pieces(path: str) -> list[tuple[int, int]]:
        return [(chunk.start, chunk.num_samples) for chunk in cut_file(audio, path, 16000)]

    assert pieces("a.wav") == [(0, 16000), (16000, 16000), (32000, 16000)]
    assert pieces("b.flac") == [(0, 16000), (16000, 16000), (32000, 11200)]
    assert pieces("c.ogg") == [(0, 16000), (16000, 16000), (32000, 16000)]
    assert pieces("d.mp3") == [(0, 16000), (16000, 16000)]
    assert pieces("sub/e.wav") == [(0, 6400)]  # short, but the complete file


@pytest.mark.parametrize(("samples", "kept"), [(23999, 1), (24000, 2), (32000, 2), (39999, 2), (40000, 3)])
def test_half_a_chunk_is_exact(tmp_path: Path, samples: int, kept: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(samples), 16000)
    assert len(cut_file(tmp_path, "a.wav", 16000)) == kept


@pytest.mark.parametrize("name", ["a.wav", "b.flac", "c.ogg", "d.mp3", "sub/ü.wav"])
def test_chunks_are_the_samples_of_the_file(audio: Path, name: str) -> None:
    whole = read_audio(audio / name)
    for chunk in cut_file(audio, name, 16000):
        waveform = ChunkReader(audio, 16000).read(chunk)
        assert waveform.dtype == np.float32
        # read from the middle, the resampling filter rounds differently
        tolerance = 2e-7 if is_seekable(audio / name) else 0
        assert np.abs(waveform - whole[chunk.start : chunk.start + chunk.num_samples]).max() <= tolerance


@pytest.mark.parametrize("rate", [1000, 8000, 11025, 16000, 22050, 32000, 44100, 44101, 48000, 96000])
def test_chunks_of_a_long_file_equal_those_of_the_complete_file(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(scale=0.1, size=int(rate * 3.7)), rate)
    assert is_seekable(tmp_path / "a.wav")
    whole = read_audio(tmp_path / "a.wav")
    chunks = cut_file(tmp_path, "a.wav", 12345)
    for chunk in chunks:
        part = ChunkReader(tmp_path, 12345).read(chunk)
        assert np.abs(part - whole[chunk.start : chunk.start + chunk.num_samples]).max() < 5e-7
    rest = len(whole) % 12345
    assert sum(chunk.num_samples for chunk in chunks) == len(whole) - (rest if 2 * rest < 12345 else 0)


def test_chunks_are_the_same_in_any_order(audio: Path) -> None:
    chunks = cut_files(find_audio(audio), 16000).chunks
    in_order = ChunkReader(audio, 16000)
    waveforms = {chunk: in_order.read(chunk) for chunk in chunks}
    shuffled = random.Random(0).sample(chunks * 2, 2 * len(chunks))
    reader = ChunkReader(audio, 16000)
    for chunk in shuffled:
        assert np.array_equal(reader.read(chunk), waveforms[chunk])


def test_changed_audio_is_reported(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(scale=0.1, size=40_000), 16000)
    _, second, third = cut_file(tmp_path, "a.wav", 16000)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    samples[20_000] ^= 1
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    reader = ChunkReader(tmp_path, 16000)
    assert len(reader.read(third)) == 8000  # unchanged
    with pytest.raises(AudioError, match=r"a\.wav: not the audio of the store \(at 1 s\)"):
        reader.read(second)
    soundfile.write(tmp_path / "a.wav", samples[:30_000], 16000)
    with pytest.raises(AudioError, match=r"a\.wav: not the audio of the store \(at 2 s\)"):
        reader.read(third)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(AudioError, match=r"a\.wav: cannot be opened: No such file"):
        reader.read(third)


def test_audio_is_found_in_folders_and_lists(audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.wav", "b.flac", "bad.wav", "c.ogg", "d.mp3", "empty.flac", "tiny.wav", "sub/e.wav", "sub/ü.wav"]
    assert find_audio(audio).paths == names and find_audio(audio).root == audio
    found = find_audio([audio / "sub", audio / "a.wav", str(audio / "sub" / "e.wav"), audio / "nowhere.wav"])
    assert (found.root, found.paths) == (audio, ["sub/e.wav", "sub/ü.wav", "a.wav", "nowhere.wav"])
    monkeypatch.chdir(audio)
    assert find_audio("a.wav").paths == ["a.wav"]
    for name in (".hidden.wav", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="No audio files in "):
        find_audio(tmp_path)
    with pytest.raises(ValueError, match="No audio files in an empty list"):
        find_audio([])
    with pytest.raises(ValueError, match="nix: there is no such file or folder"):
        find_audio("nix")


def test_names_that_are_not_utf8_are_skipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    os.rename(tmp_path / "a.wav", os.fsencode(tmp_path) + b"/\xff.wav")
    files = find_audio(tmp_path)
    assert files.paths == [] and files.skipped == {"\\xff.wav": "its name is not UTF-8; rename it"}
    with pytest.raises(ValueError, match="None of 1 audio files can be used; the first, "):
        cut_files(files, 16000)


def test_folders_that_cannot_be_listed_are_skipped(audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if os.path.basename(path) == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    files = find_audio(audio)
    assert len(files.paths) == 7
    assert files.skipped == {"sub": "a folder that cannot be listed: Permission denied"}


# Stored values


def test_stored_values_are_the_outputs_of_the_model_for_the_augmented_chunk(taught: Store, teacher: Path) -> None:
    model = CedForAudioClassification.from_pretrained(teacher).eval()
    extractor = CedFeatureExtractor.from_pretrained(teacher)
    spread = []
    for number, (seed, chunk, probabilities) in enumerate(restored(taught)):
        assert seed == sample_seed(0, number % taught.num_chunks, number // taught.num_chunks)
        log_mel = augmented_log_mel(read(taught, chunk), seed, SHORT, extractor)
        with torch.inference_mode():
            expected = model(log_mel[None]).logits.sigmoid()[0].numpy()
        assert probabilities == pytest.approx(expected, abs=6e-4)
        spread.append(np.ptp(probabilities))
    assert len(spread) == 3 * 13 and min(spread) > 0.2


def test_the_manifest_describes_the_store(taught: Store, audio: Path, teacher: Path) -> None:
    manifest = taught.manifest
    (entry,) = manifest["teachers"]
    assert entry["name"] == str(teacher) and entry["model_type"] == "ced" and entry["activation"] == "sigmoid"
    assert entry["masks"] == "on the log-mel" and entry["front_end"]["hop_size"] == 160
    assert manifest["labels"] == list(LABELS.values()) and manifest["augmentation"] == SHORT.to_dict()
    assert manifest["front_end"]["feature_size"] == 64 and manifest["front_end"]["f_max"] == 8000
    assert (manifest["seed"], manifest["top_k"], manifest["num_epochs"], manifest["num_chunks"]) == (0, 20, 3, 13)
    assert set(manifest["versions"]) >= {"ced_model", "torch", "transformers", "numpy"}
    heard = manifest["audio"]
    assert heard["root"] == str(audio) and heard["num_files"] == 6
    assert heard["hours"] == pytest.approx(sum(taught.chunks["num_samples"].to_pylist()) / 16000 / 3600, abs=1e-6)
    assert heard["bytes"] == sum((audio / path).stat().st_size for path in set(taught.chunks["path"].to_pylist()))
    assert heard["num_skipped"] == 3
    reasons = {entry["path"]: entry["reason"] for entry in heard["skipped"]}
    assert reasons.keys() == {"bad.wav", "empty.flac", "tiny.wav"}
    assert reasons["empty.flac"] == "holds no audio: the file is empty"
    assert reasons["tiny.wav"] == "shorter than 0.15 s, one patch of the model"


def test_the_overhead_is_the_size_on_disk(taught: Store) -> None:
    num_bytes, share = overhead(taught)
    assert num_bytes == sum(file.stat().st_size for file in taught.path.rglob("*") if file.is_file())
    assert share == num_bytes / taught.manifest["audio"]["bytes"]


def test_an_ensemble_is_the_mean_of_its_teachers(audio: Path, teacher: Path, tmp_path: Path) -> None:
    other = save_ced(tmp_path / "other", seed=1)
    arguments: dict[str, Any] = {"epochs": 1, "augmentation": SHORT}
    one, two, both = (
        np.array([row[2] for row in restored(teach(audio / "a.wav", [str(name) for name in names], path, **arguments))])
        for names, path in (
            ([teacher], tmp_path / "1"),
            ([other], tmp_path / "2"),
            ([teacher, other], tmp_path / "3"),
        )
    )
    assert np.abs(one - two).max() > 0.1
    assert both == pytest.approx((one + two) / 2, abs=1e-3)


def test_a_teacher_of_one_class_per_clip_gets_a_softmax(audio: Path, tmp_path: Path) -> None:
    name = str(save_ced(tmp_path / "single", seed=0, problem_type="single_label_classification"))
    store = teach(audio / "a.wav", [name], tmp_path / "store", epochs=1, augmentation=SHORT)
    assert store.manifest["teachers"][0]["activation"] == "softmax"
    for _, _, probabilities in restored(store):
        assert probabilities.sum() == pytest.approx(1, abs=2e-3)


def test_only_the_best_classes_are_stored(taught: Store, audio: Path, teacher: Path, tmp_path: Path) -> None:
    store = teach(audio, [str(teacher)], tmp_path / "s", epochs=1, augmentation=SHORT, top_k=3)
    assert [len(row["values"]) for row in store.dataset(keep_in_memory=True)] == [3] * 13
    for (_, _, few), (_, _, many) in zip(restored(store), restored(taught), strict=False):
        best = np.sort(many)[-3:]
        assert np.sort(few)[-3:] == pytest.approx(best, abs=1e-3) and np.count_nonzero(few) == 3


# Reproducibility


def test_the_teachers_get_the_students_input_to_the_bit_from_any_worker_in_any_batch(
    taught: Store, teacher: Path
) -> None:
    ensemble = load_teachers([str(teacher)])
    num_samples = taught.chunks["num_samples"].to_numpy()
    expected = [
        augmented_log_mel(read(taught, taught.chunk(chunk)), sample_seed(0, chunk, 1), SHORT, CedFeatureExtractor())
        for chunk in range(13)
    ]
    for workers, batch_size, equal_lengths in ((0, 1, False), (0, 5, True), (2, 3, False), (2, 13, False)):
        batches = plan_batches(Shard(1, 0, 13), num_samples, batch_size, equal_lengths)
        random.Random(workers).shuffle(batches)
        inputs = TeachingInputs(taught, ensemble)
        loader = DataLoader(inputs, sampler=batches, batch_size=None, num_workers=workers, collate_fn=lambda x: x)  # type: ignore[arg-type]
        seen = set()
        for batch, given in loader:
            for chunk, log_mel in zip(batch.chunks, given[0]["input_values"], strict=True):
                frames = expected[chunk].shape[1]
                assert torch.equal(log_mel[:, :frames], expected[chunk])
                seen.add(chunk)
        assert seen == set(range(13))


def test_results_do_not_depend_on_batches_and_workers(
    taught: Store, audio: Path, teacher: Path, tmp_path: Path
) -> None:
    store = teach(
        audio,
        [str(teacher)],
        tmp_path / "s",
        epochs=3,
        augmentation=SHORT,
        batch_size=1,
        num_workers=2,
        shard_chunks=13,
    )
    assert store.chunks.equals(taught.chunks)
    for (seed, chunk, values), (other_seed, other_chunk, other_values) in zip(
        restored(store), restored(taught), strict=True
    ):
        assert (seed, chunk) == (other_seed, other_chunk)
        assert values == pytest.approx(other_values, abs=1e-3)  # a different order of sums, then half precision


def test_global_random_states_are_not_changed(audio: Path, teacher: Path, tmp_path: Path) -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore

    before = states()
    teach(audio / "a.wav", [str(teacher)], tmp_path / "0", epochs=1, augmentation=SHORT)
    teach(audio / "a.wav", [str(teacher)], tmp_path / "2", epochs=1, augmentation=SHORT, num_workers=2)
    assert states() == before


# Other front ends


def save_ast(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, max_length=128,
        num_mel_bins=128, id2label=LABELS, problem_type="multi_label_classification",
    )  # fmt: skip
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(max_length=128, do_normalize=False).save_pretrained(folder)
    return folder


def save_whisper(folder: Path) -> Path:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=16, num_mel_bins=80, max_source_positions=1500, id2label=LABELS,
    )  # fmt: skip
    WhisperForAudioClassification(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def save_wav2vec2_bert(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        feature_projection_input_dim=160, classifier_proj_size=8, id2label=LABELS,
    )  # fmt: skip
    Wav2Vec2BertForSequenceClassification(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return folder


def save_wav2vec2(folder: Path, sampling_rate: int = 16000) -> Path:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(20, 16), conv_kernel=(20, 16), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        classifier_proj_size=8, id2label=LABELS,
    )  # fmt: skip
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=sampling_rate).save_pretrained(folder)
    return folder


def test_a_mask_region_is_where_the_mask_of_the_log_mel_is() -> None:
    for seed in range(50):
        bounds, region = mask_bounds(seed, Augmentation(), 1001, 64), mask_region(seed, Augmentation(), 160_000)
        grid = mel_grid(CedFeatureExtractor())
        assert grid is not None
        times = grid.first_s + grid.frame_s * np.arange(1001)
        frames = np.flatnonzero((region.start_s <= times) & (times < region.stop_s))
        mels = np.flatnonzero((region.low_hz <= grid.mel_hz) & (grid.mel_hz < region.high_hz))
        assert frames.tolist() == list(range(bounds.time_start, bounds.time_stop))
        assert mels.tolist() == list(range(bounds.freq_start, bounds.freq_stop))


@pytest.mark.parametrize(("save", "mels_first"), [(save_ast, False), (save_whisper, True)], ids=["AST", "Whisper"])
def test_another_spectrogram_is_masked_where_the_sound_is(
    tmp_path: Path, save: Callable[[Path], Path], mels_first: bool
) -> None:
    front_end = load_teacher(str(save(tmp_path / "teacher"))).front_end
    assert front_end is not None and front_end.masks.startswith("by their bounds in seconds and hertz")
    time = np.arange(16000) / 16000
    for seed in range(20):
        region = mask_region(seed, SHORT, 16000)
        if region.stop_s - region.start_s < 0.06 or region.high_hz - region.low_hz < 300:
            continue
        # A click at the centre of the time mask and a tone at the centre of the frequency mask are not visible.
        clicks = np.zeros(16000, np.float32)
        clicks[round((region.start_s + region.stop_s) / 2 * 16000)] = 1
        tone = np.sin(2 * np.pi * (region.low_hz * region.high_hz) ** 0.5 * time).astype(np.float32)
        unmasked = Augmentation(chunk_s=1.0, max_shift=0.0, max_time_mask=0, max_freq_mask=0)
        for waveform in (clicks, tone):
            # without the shift, which would move the sound
            masked = front_end(waveform, seed, Augmentation(chunk_s=1.0, max_shift=0.0, max_time_mask=19))
            plain = front_end(waveform, seed, unmasked)
            (name,) = plain.keys() - {"attention_mask"}
            before, after = plain[name][0], masked[name][0]
            valid = before[:, :101] if mels_first else before[:98]
            loudest = np.unravel_index(int(before.argmax()), before.shape)
            assert after[loudest] == pytest.approx(valid.mean().item(), abs=1e-3)
            assert before[loudest] > valid.mean() + 0.1
            assert not torch.equal(before, after) and (before == after).float().mean() > 0.4
        return
    pytest.fail("no seed masks enough")


def test_stacked_frames_are_masked_one_by_one() -> None:
    grid = mel_grid(SeamlessM4TFeatureExtractor())
    assert grid is not None
    features = torch.randn(
        1, 50, 160, generator=torch.Generator().manual_seed(0)
    )  # 100 frames of 80 bins, 2 of padding
    region = MaskRegion(start_s=0.2, stop_s=0.3, low_hz=1000, high_hz=2000)
    masked = mask_spectrogram(features, region, grid, duration_s=1.0)
    expected = features[0].reshape(100, 80).clone()
    mean = expected[:98].mean()
    times = [0.0125 + 0.01 * frame for frame in range(100)]
    expected[[0.2 <= time < 0.3 for time in times]] = mean
    expected[:, (1000 <= grid.mel_hz) & (grid.mel_hz < 2000)] = mean
    assert torch.allclose(masked[0].reshape(100, 80), expected, atol=1e-6)
    assert (masked != features).sum() == 10 * 80 + 90 * 15


@pytest.mark.parametrize(
    ("save", "masks"),
    [
        (save_ast, "by their bounds in seconds and hertz, on the model's own spectrogram"),
        (save_whisper, "by their bounds in seconds and hertz, on the model's own spectrogram"),
        (save_wav2vec2_bert, "by their bounds in seconds and hertz, on the model's own spectrogram"),
        (save_wav2vec2, "none: shifted only"),
    ],
    ids=["AST", "Whisper", "Wav2Vec2-BERT", "wav2vec2"],
)
def test_any_audio_classifier_of_transformers_can_be_a_teacher(
    audio: Path, teacher: Path, tmp_path: Path, save: Callable[[Path], Path], masks: str
) -> None:
    names = [str(save(tmp_path / "teacher")), str(teacher)]
    store = teach([audio / "b.flac", audio / "sub"], names, tmp_path / "store", epochs=1, augmentation=SHORT)
    assert [entry["masks"] for entry in store.manifest["teachers"]] == [masks, "on the log-mel"]
    model, front_end = load_teacher(names[0]), load_teacher(names[0]).front_end
    ced = load_teacher(names[1])
    assert front_end is not None and ced.front_end is not None
    for seed, chunk, probabilities in restored(store):
        waveform = read(store, chunk)
        expected = [
            one.probabilities(one.front_end.collate([one.front_end(waveform, seed, SHORT)])) for one in (model, ced)
        ]
        assert probabilities == pytest.approx(np.mean(expected, axis=0)[0], abs=1e-3)


def test_a_model_with_another_sampling_rate_gets_resampled_audio(audio: Path, tmp_path: Path) -> None:
    name = str(save_wav2vec2(tmp_path / "teacher", sampling_rate=8000))
    front_end = load_teacher(name).front_end
    assert front_end is not None
    assert front_end(np.zeros(16000, np.float32), 0, SHORT)["input_values"].shape == (1, 8000)
    assert teach(audio, [name], tmp_path / "store", epochs=1, augmentation=SHORT).num_epochs == 1


def test_a_ced_with_another_log_mel_is_masked_by_time_and_frequency(tmp_path: Path) -> None:
    save_ced(tmp_path / "ced", seed=0)
    CedFeatureExtractor(f_max=7000).save_pretrained(tmp_path / "ced")
    front_end = load_teacher(str(tmp_path / "ced")).front_end
    assert front_end is not None and front_end.masks.startswith("by their bounds")


# Callables


def test_a_callable_gets_the_shifted_waveform(audio: Path, functions: Path, tmp_path: Path) -> None:
    for number, attribute in enumerate(("Loudness", "loudness")):  # a class is instantiated
        store = teach(audio, [f"{functions}:{attribute}"], tmp_path / str(number), epochs=2, augmentation=SHORT)
        assert store.manifest["teachers"][0]["masks"] == "none: shifted only"
        for seed, chunk, probabilities in restored(store):
            shifted = shift_waveform(read(store, chunk), seed, SHORT)
            expected = np.abs(np.append(shifted[:12], shifted.std()))
            assert probabilities == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_in_python_a_callable_can_be_a_teacher(audio: Path, tmp_path: Path) -> None:
    def halves(waveforms: np.ndarray) -> torch.Tensor:
        return torch.full((len(waveforms), 2), 0.5)

    with pytest.raises(ValueError, match="The teacher .*halves must have `labels`, a list of the names of its classes"):
        load_teachers([halves])
    halves.labels = ["left", "right"]  # type: ignore[attr-defined]
    store = teach(audio / "a.wav", [halves], tmp_path / "store", epochs=1)
    assert store.manifest["teachers"][0]["name"].endswith("<locals>.halves") and store.labels == ["left", "right"]
    assert [row["values"] for row in store.dataset(keep_in_memory=True)] == [[0.5, 0.5]]
    for wrong in (5, dict):
        with pytest.raises(ValueError, match="is neither a name nor a callable that takes waveforms"):
            load_teachers([wrong])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="Expected a list of teachers, got 'a.py:f'"):
        load_teachers("a.py:f")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Logits", r"returned values from -3 to -3, which are not probabilities: apply a sigmoid or a softmax"),
        ("NotANumber", "returned values from nan to nan, which are not probabilities"),
        ("Integers", "returned values of type int64, not floating point"),
        ("Transposed", r"returned the shape \(13, 1\), not \(1, 13\)"),
        ("Failing", "cannot be loaded: RuntimeError: no weights"),
        ("Twice", "has two classes 'class 0'"),
        ("NoLabels", "must have `labels`, a list of the names of its classes, got None"),
        ("nothing", "cannot be loaded: AttributeError: .* has no attribute 'nothing'"),
        ("number", "is a int, not a callable"),
    ],
)
def test_an_invalid_callable_is_refused(
    audio: Path, functions: Path, tmp_path: Path, attribute: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        teach(audio / "a.wav", [f"{functions}:{attribute}"], tmp_path / "s", epochs=1, augmentation=SHORT, batch_size=1)
    assert str(caught.value).startswith(f"The teacher {functions}:{attribute} ")


# Bad teachers


def test_teachers_with_other_labels_are_refused_with_the_difference(teacher: Path, functions: Path) -> None:
    with pytest.raises(ValueError, match=f"class 0 is 'class 0' in {teacher}, but 'another' in {functions}:Renamed"):
        load_teachers([str(teacher), f"{functions}:Renamed"])
    with pytest.raises(ValueError, match=f"{teacher} has 13 classes, {functions}:Fewer has 12"):
        load_teachers([str(teacher), f"{functions}:Fewer"])


def test_models_that_are_not_trained_classifiers_are_refused(teacher: Path, tmp_path: Path) -> None:
    model = CedForAudioClassification.from_pretrained(teacher)
    model.encoder.save_pretrained(tmp_path / "encoder")
    CedFeatureExtractor().save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"has no weights for 4 of its tensors.*not a trained audio classifier"):
        load_teacher(str(tmp_path / "encoder"))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="The teacher .*model cannot be loaded: "):
        load_teacher(str(tmp_path / "model"))  # without a feature extractor
    with pytest.raises(ValueError, match="The teacher nix.py:f cannot be loaded: FileNotFoundError: there is no file"):
        load_teacher("nix.py:f")
    with pytest.raises(ValueError, match="The teacher nix:f cannot be loaded: ModuleNotFoundError: No module named"):
        load_teacher("nix:f")
    with pytest.raises(ValueError, match="No teachers: give at least one"):
        load_teachers([])


# Continuing


def test_more_epochs_are_added_to_existing_ones(taught: Store, audio: Path, teacher: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"augmentation": SHORT, "batch_size": 4, "shard_chunks": 5}
    first = teach(audio, [str(teacher)], tmp_path / "store", epochs=1, **arguments)
    times = {file: file.stat().st_mtime_ns for file in (first.path / SHARDS).iterdir()}
    store = teach(audio, [str(teacher)], tmp_path / "store", epochs=3, **arguments)
    assert rows(store) == rows(taught)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert store.manifest["num_epochs"] == 3


def test_a_corrupt_shard_is_reported_and_computed_again(
    audio: Path, teacher: Path, taught: Store, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"epochs": 3, "augmentation": SHORT, "batch_size": 4, "shard_chunks": 5}
    store = teach(audio, [str(teacher)], tmp_path / "store", **arguments)
    bad = store.path / SHARDS / store.shards()[4].file_name
    bad.write_bytes(bad.read_bytes()[:-50])
    with pytest.raises(ValueError, match=f"{bad.name}: corrupt shard"):
        open_store(store.path)
    progress = Watcher()
    assert rows(teach(audio, [str(teacher)], tmp_path / "store", **arguments, progress=progress)) == rows(taught)
    assert (
        progress.problems[0].startswith(f"{bad}: corrupt shard: ")
        and progress.planned_inputs == (39, 34)
        and progress.taught_inputs == 5
    )


class Watcher(TeachingProgress):
    """Records the progress of teaching."""

    def __init__(self) -> None:
        self.planned_inputs = (0, 0)
        self.taught_inputs = 0
        self.problems: list[str] = []

    def planned(self, num_inputs: int, num_done: int) -> None:
        self.planned_inputs = num_inputs, num_done

    def damaged(self, problem: str) -> None:
        self.problems.append(problem)

    def taught(self, num_inputs: int, audio_s: float) -> None:
        self.taught_inputs += num_inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "its `seed` is 0, not 1"),
        ({"top_k": 5}, "its `top_k` is 20, not 5"),
        ({"epochs": 2}, "it has 3 epochs, not 2; there may only be more"),
        ({"augmentation": Augmentation(chunk_s=2.0, max_time_mask=19)}, r"its `chunk_s` is 1.0, not 2.0"),
        ({"augmentation": Augmentation(chunk_s=1.0, max_time_mask=20)}, r"its `max_time_mask` is 19, not 20"),
        ({"teachers": ["CED", "CED"]}, "its teachers are .*ced, not .*ced and .*ced"),
        ({"teachers": ["FUNCTIONS:Loudness"]}, "its teacher is .*ced, not .*functions.py:Loudness"),
        ({"teachers": ["FUNCTIONS:Renamed"]}, "class 0 is 'class 0' in the store, but 'another' in the teachers"),
        ({"audio": ["a.wav", "sub"]}, "audio files are gone: b.flac, bad.wav, c.ogg and 3 more"),
    ],
)
def test_a_store_with_other_options_is_refused_with_the_difference(
    taught: Store, audio: Path, teacher: Path, functions: Path, changes: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"audio": audio, "teachers": ["CED"], "epochs": 3, "augmentation": SHORT} | changes
    arguments["teachers"] = [
        name.replace("CED", str(teacher)).replace("FUNCTIONS", str(functions)) for name in arguments["teachers"]
    ]
    if isinstance(arguments["audio"], list):
        arguments["audio"] = [audio / name for name in arguments["audio"]]
    before = {file: file.read_bytes() for file in taught.path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=message) as caught:
        teach(output=taught.path, **arguments)
    assert str(caught.value).startswith(f"{taught.path}: this store was started with different options: ")
    assert {file: file.read_bytes() for file in taught.path.rglob("*") if file.is_file()} == before


def test_changed_audio_and_changed_teachers_are_reported(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / "audio" / name, np.random.default_rng(0).normal(size=16000) / 10, 16000)
    name = str(save_ced(tmp_path / "teacher", seed=0))
    arguments: dict[str, Any] = {"augmentation": SHORT}
    teach(tmp_path / "audio", [name], tmp_path / "store", epochs=1, **arguments)
    # Both may be moved, but not changed.
    os.rename(tmp_path / "audio", tmp_path / "moved")
    os.rename(name, tmp_path / "elsewhere")
    store = teach(tmp_path / "moved", [str(tmp_path / "elsewhere")], tmp_path / "store", epochs=2, **arguments)
    assert store.audio_root == tmp_path / "moved"
    soundfile.write(tmp_path / "moved" / "b.wav", np.random.default_rng(1).normal(size=16000) / 10, 16000)
    for workers in (0, 1):
        with pytest.raises(AudioError, match=r"moved/b\.wav: not the audio of the store \(at 0 s\)"):
            teach(
                tmp_path / "moved", [str(tmp_path / "elsewhere")], tmp_path / "store", epochs=3, num_workers=workers,
                **arguments,
            )  # fmt: skip
    save_ced(tmp_path / "elsewhere", seed=1)
    with pytest.raises(ValueError, match=r"its teacher is .*, which has changed since \(checksum\)|, not .*elsewhere"):
        teach(tmp_path / "moved", [str(tmp_path / "elsewhere")], tmp_path / "store", epochs=3, **arguments)


def test_a_folder_with_other_files_is_not_changed(audio: Path, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    with pytest.raises(ValueError, match="this folder has other files"):
        teach(audio, [str(teacher)], tmp_path, epochs=1)
    with pytest.raises(ValueError, match="expected a folder, not a file"):
        teach(audio, [str(teacher)], tmp_path / "precious.txt", epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("name", ["epochs", "top_k", "batch_size", "shard_chunks"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_counts_are_integers_of_at_least_one(audio: Path, teacher: Path, tmp_path: Path, name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"epochs": 1, name: value}
    with pytest.raises(ValueError, match=f"`{name}={value}`: expected a whole number from 1"):
        teach(audio, [str(teacher)], tmp_path / "s", **arguments)


# The command


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty clips of 1 s."""
    folder = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for number in range(40):
        soundfile.write(folder / f"{number:02d}.wav", generator.normal(scale=0.1, size=16000), 16000)
    return folder


@pytest.fixture(scope="module")
def undisturbed(many: Path, functions: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    return rows(teach(many, [f"{functions}:Loudness"], path, epochs=12))


def run(*arguments: Any, code: int = 0) -> str:
    """Runs `ced distill teach ARGUMENTS…` in this process; returns its stderr."""
    result = CliRunner().invoke(app, ["distill", "teach", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.stderr
    return result.stderr


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def start_teaching(arguments: list[Any], errors: Path, processes: int = 1) -> list[BaseProcess]:
    """Runs the command in one process, or in several with the environment of `accelerate launch`."""
    common = {
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": free_port(),
        "OMP_NUM_THREADS": "1",
    }
    started = []
    for rank in range(processes):
        environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        stderr = errors.with_name(f"{errors.name}{rank}")
        started.append(start(["distill", "teach", *arguments], stderr=stderr, environment=environment))
    return started


def kill_in_the_middle(processes: list[BaseProcess], store: Path, shards: int) -> None:
    """Sends SIGKILL to all processes as soon as there are this many shards."""
    deadline = time.monotonic() + 300
    while len(list((store / SHARDS).glob("*.parquet"))) < shards:
        assert time.monotonic() < deadline and all(process.is_alive() for process in processes)
        time.sleep(0.01)
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
        assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_continues_without_missing_or_duplicate_rows(
    many: Path, functions: Path, undisturbed: dict[str, list[Any]], tmp_path: Path, processes: int
) -> None:
    # The slow teacher has the same outputs; the store identifies it by its file.
    arguments = [many, "--teacher", f"{functions}:Slow", "--epochs", 12, "--output", tmp_path / "store"]
    kill_in_the_middle(start_teaching(arguments, tmp_path / "stderr", processes), tmp_path / "store", 3)
    (tmp_path / "store" / SHARDS / ".half-written.tmp").touch()
    done = rows(tmp_path / "store")
    assert 3 <= len(done) < 12
    with pytest.raises(ValueError, match=rf"unfinished: {len(done)} of 12 shards exist"):
        open_store(tmp_path / "store")
    started = start_teaching(arguments, tmp_path / "again", processes)
    for process in started:
        process.join()
    said = (tmp_path / "again0").read_text()
    assert [process.exitcode for process in started] == [0] * processes, said
    assert rows(tmp_path / "store") == undisturbed
    assert len(list((tmp_path / "store" / SHARDS).iterdir())) == 12
    if processes == 1:
        assert f"{40 * len(done)} of 480 inputs exist already" in said
    assert "12 epochs of 40 chunks" in said


def test_accelerate_launch_divides_the_work(
    many: Path, functions: Path, undisturbed: dict[str, list[Any]], tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *(
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            free_port(),
        ),
        *("-m", "ced_model", "distill", "teach", many, "--teacher", f"{functions}:Loudness", "--epochs", "12"),
        *("--output", tmp_path / "store"),
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "store") == undisturbed
    assert done.stderr.count("12 epochs of 40 chunks") == 1  # printed by one process only


def test_a_full_disk_gives_one_line_and_the_store_can_be_continued(
    many: Path, functions: Path, undisturbed: dict[str, list[Any]], tmp_path: Path
) -> None:
    arguments = [many, "--teacher", f"{functions}:Loudness", "--epochs", 12, "--output", tmp_path / "store"]
    # There is room for the table of chunks and the manifest, but not for a shard.
    process = start(["distill", "teach", *arguments], stderr=tmp_path / "stderr", max_file_size=3000)
    process.join()
    last = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert process.exitcode == 1
    assert last == (
        f"ced: {tmp_path / 'store'}: File too large: make room, then run the same command again to continue"
        f" {tmp_path / 'store'}"
    )
    assert list((tmp_path / "store" / SHARDS).iterdir()) == []
    run(*arguments)
    assert rows(tmp_path / "store") == undisturbed


def test_the_command_reports_its_work_and_skipped_files(audio: Path, teacher: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    said = run(audio, "-t", teacher, "-e", 2, "-o", store, "--chunk", 1, "--max-time-mask", 19).splitlines()
    assert said[0] == "9 files to cut into chunks"
    assert said[2:4] == [
        "empty.flac: holds no audio: the file is empty: skipped",
        "tiny.wav: shorter than 0.15 s, one patch of the model: skipped",
    ]
    assert said[4].startswith(f"{store}: 2 epochs of 13 chunks, 0.0033") and said[4].endswith(
        "6 files, 3 files skipped"
    )
    assert "bytes for each chunk and epoch: " in said[5] and "% of the audio's " in said[5]
    assert json.loads((store / "manifest.json").read_text())["augmentation"] == SHORT.to_dict()


def test_a_list_of_files_can_be_used(audio: Path, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{audio / 'a.wav'}\n{audio / 'sub'}\n{audio / 'nix.wav'}\n")
    said = run("--from", tmp_path / "list", "-t", teacher, "-e", 1, "-o", tmp_path / "store")
    assert "nix.wav: cannot be opened: No such file or directory: skipped" in said
    assert open_store(tmp_path / "store").chunks["path"].to_pylist() == ["a.wav", "sub/e.wav", "sub/ü.wav"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "missing AUDIO: folders and files, --from FILE or --dataset"),
        (["AUDIO"], 2, "missing --teacher: a model folder, a Hub id, or a callable as path/to/file.py:attribute"),
        (["AUDIO", "-t", "CED"], 2, "missing --epochs: the paper uses 120 for twenty thousand clips"),
        (["AUDIO", "-t", "CED", "-e", "1"], 2, "missing --output STORE: the folder to write"),
        (["nix", "-t", "CED", "-e", "1", "-o", "STORE"], 2, "nix: there is no such file or folder"),
        (["AUDIO", "-t", "CED", "-e", "1", "-o", "STORE", "--max-shift", "3"], 2, "--max-shift 3: expected a number"),
        (["AUDIO", "-t", "CED", "-e", "1", "-o", "STORE", "--chunk", "1"], 2, "--max-time-mask 192: expected"),
        (["AUDIO", "-t", "CED", "-e", "1", "-o", "STORE", "--device", "gpu9"], 2, "--device gpu9: "),
        (["AUDIO", "-t", "nix.py:f", "-e", "1", "-o", "STORE"], 1, "The teacher nix.py:f cannot be loaded: "),
        (["AUDIO/bad.wav", "-t", "CED", "-e", "1", "-o", "STORE"], 1, "None of 1 audio files can be used; the first"),
        (["AUDIO", "-t", "CED", "-e", "1", "-o", "AUDIO"], 1, "this folder has other files"),
    ],
)  # fmt: skip
def test_wrong_usage_gives_one_line(
    audio: Path, teacher: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    names = {"AUDIO": audio, "CED": teacher, "STORE": tmp_path / "store"}
    for name, path in names.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    last = run(*arguments, code=code).splitlines()[-1]
    assert last.startswith("ced: ") and message in last
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_without_the_extra_the_error_has_the_install_command(
    audio: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("ced_model.training.distillation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("ced_model.packages.missing", lambda names: [name for name in names if name == "datasets"])
    said = run(audio, "-t", teacher, "-e", 1, "-o", tmp_path / "store", code=1)
    assert said == "ced: distillation requires datasets: pip install datasets\n"
