# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the data for pretraining: log-mels of scenes, and the teacher's logits and embeddings every 0.48 s."""

import functools
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import torch

import yamnet
from ced_model import CedFeatureExtractor
from ced_model.output import new_file
from mixing import SCENE_S, Mixer, make_rooms
from sources import SAMPLING_RATE, Bank

SHARD_SCENES = 256
SEEDS = {"train": 1, "heldout": 2}
LISTENED_S = 10.0  # length of a recording that is given to the teacher
BALANCE = 0.6  # 0: all recordings are drawn equally often; 1: all classes are drawn equally often


def listen(folder: Path) -> None:
    """Writes bank/heard.npz: the teacher's probabilities (recordings, 527), mean and maximum over each recording.

    Only recordings that are new in the bank are computed. The file is written after every 1000 recordings.
    """
    path, count = folder / "heard.npz", len(Bank(folder).rows)
    means, peaks = [], []
    if path.exists():
        with np.load(path) as heard:
            means, peaks = list(heard["mean"]), list(heard["peak"])
    with ProcessPoolExecutor() as pool:
        missing = range(len(means), count)
        for number, (mean, peak) in enumerate(pool.map(_listen_to, [folder] * count, missing, chunksize=32), start=1):
            means.append(mean)
            peaks.append(peak)
            if number % 1000 == 0 or number == len(missing):
                with new_file(path, replace=True) as file:
                    np.savez(file, mean=np.array(means), peak=np.array(peaks))


_open_bank = functools.cache(Bank)


def _listen_to(folder: Path, index: int) -> tuple[np.ndarray, np.ndarray]:
    scores = yamnet.teacher().scores(_open_bank(folder).waveform(index)[: int(LISTENED_S * SAMPLING_RATE)])
    return scores.mean(0).astype(np.float16), scores.max(0).astype(np.float16)


def recordings_of(bank: Bank, split: str) -> np.ndarray:
    return np.array([i for i, row in enumerate(bank.rows) if row["split"] == split])


def make_mixer(work: Path, split: str) -> Mixer:
    """The mixer of a split. Recordings of frequent classes and of large series have smaller weights."""
    bank = Bank(work / "bank")
    indices = recordings_of(bank, split)
    names = np.load(work / "bank" / "heard.npz")["mean"][indices].argmax(1)
    groups = [bank.rows[i]["group"] for i in indices]
    name_counts, group_counts = Counter(names.tolist()), Counter(groups)
    weights = [
        name_counts[name] ** -BALANCE * group_counts[group] ** -0.5
        for name, group in zip(names.tolist(), groups, strict=True)
    ]
    return Mixer(bank, indices, np.array(weights), make_rooms(work / "rooms.npz"), seed=SEEDS[split])


def write_shards(work: Path, split: str, count: int, *, processes: int) -> None:
    """Writes `count` shards of 256 scenes; existing shards are kept."""
    folder = work / "shards" / split
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(count) if not (folder / f"{number:04d}.json").exists()]
    make_rooms(work / "rooms.npz")
    with ProcessPoolExecutor(processes, initializer=_start, initargs=(work, split)) as pool:
        for number in pool.map(_write_shard, missing):
            print(f"{split} shard {number}: {(number + 1) * SHARD_SCENES * SCENE_S / 3600:.1f} h", flush=True)


def _start(work: Path, split: str) -> None:
    global _work, _split, _mixer, _extractor
    _work, _split, _mixer, _extractor = work, split, make_mixer(work, split), CedFeatureExtractor()


def _write_shard(number: int) -> int:
    log_mels, logits, embeddings = [], [], []
    for index in range(number * SHARD_SCENES, (number + 1) * SHARD_SCENES):
        scene = _mixer.scene(index)
        log_mels.append(_extractor.log_mel(torch.from_numpy(scene)).half().numpy())
        taught = yamnet.teacher().run(yamnet.patches_of(scene))
        logits.append(taught[0].astype(np.float16))
        embeddings.append(taught[1].astype(np.float16))
    stem = _work / "shards" / _split / f"{number:04d}"
    for name, arrays in (("mel", log_mels), ("logits", logits), ("embeddings", embeddings)):
        np.save(f"{stem}.{name}.npy", np.stack(arrays))
    stem.with_suffix(".json").write_text(json.dumps({"scenes": SHARD_SCENES}))  # last: marks a complete shard
    return number


class Shards:
    """The complete shards of a split. `refresh` adds those that were completed during the training."""

    def __init__(self, folder: Path):
        self.folder, self.arrays = folder, {}
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(self.folder.glob("*.json")):
            if path.stem not in self.arrays:
                names = [str(path.with_suffix(f".{name}.npy")) for name in ("mel", "logits", "embeddings")]
                self.arrays[path.stem] = [np.load(name, mmap_mode="r") for name in names]
        self.names = sorted(self.arrays)

    def __len__(self) -> int:
        return len(self.names) * SHARD_SCENES

    def crop(self, scene: int, first_patch: int, patches: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log-mel (64, 48·(patches + 1)), logits (patches, 521), embeddings (patches, 1024) of a part of a scene."""
        mel, logits, embeddings = self.arrays[self.names[scene // SHARD_SCENES]]
        frames = slice(first_patch * yamnet.PATCH_HOP, (first_patch + patches + 1) * yamnet.PATCH_HOP)
        patch = slice(first_patch, first_patch + patches)
        number = scene % SHARD_SCENES
        return mel[number, :, frames], logits[number, patch], embeddings[number, patch]


def write_audio(work: Path, split: str, hours: float, folder: Path, *, processes: int) -> None:
    """Writes scenes for distillation as FLAC files of one minute."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [minute for minute in range(round(hours * 60)) if not _audio_path(folder, minute).exists()]
    with ProcessPoolExecutor(processes, initializer=_start, initargs=(work, split)) as pool:
        for _ in pool.map(_write_minute, [folder] * len(missing), missing, chunksize=4):
            pass


def _audio_path(folder: Path, minute: int) -> Path:
    return folder / f"{minute:05d}.flac"


def _write_minute(folder: Path, minute: int) -> None:
    count = round(60 / SCENE_S)
    waveform = np.concatenate([_mixer.scene(index) for index in range(count * minute, count * (minute + 1))])
    path = _audio_path(folder, minute)
    with new_file(path) as file:
        soundfile.write(file, waveform, SAMPLING_RATE, format="FLAC")
