# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Teaching: writes the outputs of teachers for audio to a store, in one process or with `accelerate launch`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch.utils.data import DataLoader, Dataset

import ced_model

from ...audio import SAMPLING_RATE, AudioError, describe
from ...engines.torch import check_device
from ...messages import OptionError
from .augmentation import Augmentation, sample_seed
from .chunks import AudioFiles, AudioSource, ChunkReader, cut_files, find_audio
from .front_ends import CED_FRONT_END, Features, front_end_parameters
from .store import (
    CHUNKS,
    DEFAULT_SHARD_CHUNKS,
    MANIFEST,
    SHARDS,
    Shard,
    ShardRows,
    Store,
    open_store,
    read_chunks,
    read_manifest,
    read_shard,
    top_k_of,
    top_probabilities,
    write_chunks,
    write_manifest,
    write_shard,
)
from .teachers import Ensemble, TeacherSource, describe_label_difference, load_teachers

WAIT = timedelta(days=365)  # for the slowest process; the default of half an hour is too short
MAX_NAMED = 3  # files in a message


class TeachingProgress:
    """The progress of this process. Override the methods to show it."""

    def found(self, num_files: int) -> None:
        """`num_files` were found, and will be split into chunks."""

    def cut(self, path: str, reason: str | None) -> None:
        """A file was split, or skipped for a reason."""

    def planned(self, num_inputs: int, num_done: int) -> None:
        """This process has to compute `num_inputs` (chunks of all epochs), and `num_done` of these exist already."""

    def damaged(self, problem: str) -> None:
        """A shard is corrupt, and will be computed again."""

    def taught(self, num_inputs: int, audio_s: float) -> None:
        """`num_inputs` more inputs are done."""


def teach(
    audio: AudioSource,
    teachers: Sequence[TeacherSource],
    output: str | os.PathLike,
    *,
    epochs: int,
    augmentation: Augmentation | None = None,
    top_k: int = 20,
    seed: int = 0,
    batch_size: int = 16,
    device: str | None = None,
    num_workers: int | None = None,
    shard_chunks: int = DEFAULT_SHARD_CHUNKS,
    progress: TeachingProgress | None = None,
) -> Store:
    """
    Stores the outputs of teachers for audio with seeded augmentation, without labels (paper, section 2).

    A call with the same arguments continues an interrupted run; with more `epochs`, these are added. With
    `accelerate launch`, the shards are divided between the processes, which may run on several machines with a shared
    folder.

    Args:
        audio: A folder, or a list of files and folders. Files that cannot be read are skipped, and listed in the
            manifest.
        teachers: Model folders, ids of Hub repositories, or callables: see `load_teachers`.
        output: The folder of the store.
        epochs: Number of times each chunk is used, with a different augmentation each time.
        augmentation: The augmentation, by default that of the paper.
        top_k: Number of highest probabilities to store.
        seed: Seed of the store. The seed of an augmentation depends on it, the chunk and the epoch.
        batch_size: Chunks per call of a teacher.
        device: Device of transformers models, by default a GPU if there is one, or one per process with
            `accelerate launch`.
        num_workers: Data loading processes, by default 4 for a GPU and none for a CPU.
        shard_chunks: Chunks per shard. A process that is killed loses at most one shard.
        progress: Called with the progress.

    Raises:
        ValueError: if an argument, a teacher or all audio cannot be used, or if `output` is a different store (the
            message has the difference).
        AudioError: if audio was changed or removed since the store was created.
        OSError: if the disk is full. The run can be continued.
    """
    output, progress = Path(output), progress or TeachingProgress()
    augmentation = augmentation or Augmentation()
    counts = {"epochs": epochs, "top_k": top_k, "batch_size": batch_size, "shard_chunks": shard_chunks}
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise OptionError(name, count, "a whole number from 1")
    sample_seed(seed, 0, 0)
    if device is not None:
        check_device(device)
    target = None if device is None else torch.device(device)
    state = _join_processes(target)
    if target is None or (target.type == state.device.type and target.index is None):
        target = state.device  # one GPU per process
    if state.is_main_process:
        _check_output(output)
        files = find_audio(audio)
    ensemble = load_teachers(teachers, target)
    if state.is_main_process:
        wanted = {
            "teachers": ensemble.describe(),
            "labels": ensemble.labels,
            "augmentation": augmentation.to_dict(),
            "front_end": front_end_parameters(CED_FRONT_END),
            "seed": seed,
            "top_k": top_k,
            "num_epochs": epochs,
        }
        if (output / MANIFEST).exists():
            _continue_store(output, wanted, files)
        else:
            _begin_store(output, wanted | {"shard_chunks": shard_chunks}, files, augmentation, progress)
    state.wait_for_everyone()
    manifest = read_manifest(output)
    store = Store(output, manifest, read_chunks(output, manifest))
    own = store.shards()[state.process_index :: state.num_processes]
    workers = num_workers if num_workers is not None else 0 if target.type == "cpu" else 4
    _teach_shards(store, own, ensemble, batch_size, workers, progress)
    state.wait_for_everyone()
    return open_store(output) if state.is_main_process else store


def overhead(store: Store) -> tuple[int, float]:
    """Size of a store on disk in bytes, and as a share of the size of its audio."""
    num_bytes = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    return num_bytes, num_bytes / store.manifest["audio"]["bytes"]


# Starting and continuing


def _join_processes(device: torch.device | None) -> PartialState:
    """The processes of `accelerate launch` or `torchrun`, or this one."""
    on_cpu = device is not None and device.type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU")
    # Without this, processes on a machine without a GPU are not joined, and each does all the work.
    state = PartialState(cpu=on_cpu or not torch.accelerator.is_available(), timeout=WAIT)
    if state.num_processes != int(os.environ.get("WORLD_SIZE", state.num_processes)):
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were launched, but accelerate cannot join them: run one process."
        )
    return state


def _check_output(output: Path) -> None:
    """Raises a ValueError unless `output` is a store, the remains of one without a manifest, empty or missing."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"{output}: expected a folder, not a file.")
    names = {entry.name for entry in output.iterdir()}
    own = {CHUNKS, SHARDS}
    if MANIFEST not in names and not all(name in own or name.endswith(".tmp") for name in names):
        raise ValueError(f"{output}: this folder has other files; choose a new one for the store.")


def _begin_store(
    output: Path, wanted: dict[str, Any], files: AudioFiles, augmentation: Augmentation, progress: TeachingProgress
) -> None:
    progress.found(len(files.paths))
    cut = cut_files(files, augmentation.chunk_samples, on_file=progress.cut)
    _check_unbegun(output)  # after the slow part
    (output / SHARDS).mkdir(parents=True, exist_ok=True)
    used = {chunk.path for chunk in cut.chunks}
    manifest = {
        **wanted,
        "num_chunks": len(cut.chunks),
        "chunks_checksum": write_chunks(output, cut.chunks),
        "audio": {
            "root": str(files.root),
            "num_files": len(used),
            "bytes": sum(os.path.getsize(files.root / path) for path in used),
            "hours": round(sum(chunk.num_samples for chunk in cut.chunks) / SAMPLING_RATE / 3600, 6),
            "num_skipped": len(cut.skipped),
            "skipped": [{"path": path, "reason": reason} for path, reason in cut.skipped.items()],
        },
        "versions": _versions(),
    }
    try:
        write_manifest(output, manifest, replace=False)  # last: it marks the rest as complete
    except FileExistsError:
        _check_unbegun(output)
        raise


def _check_unbegun(output: Path) -> None:
    _check_output(output)
    if (output / MANIFEST).exists():
        raise ValueError(f"{output}: another run has started in the meantime: run the same command again.")


def _continue_store(output: Path, wanted: dict[str, Any], files: AudioFiles) -> None:
    """Raises a ValueError with the difference if the store has other teachers, audio or options."""
    manifest = read_manifest(output)
    chunks = read_chunks(output, manifest)
    problem = _difference(manifest, wanted) or _file_difference(manifest, chunks["path"].unique().to_pylist(), files)
    if problem is not None:
        raise ValueError(
            f"{output}: this store was started with different options: {problem}. Use the same"
            " options, or choose another folder."
        )
    for left in (output / SHARDS).glob(".*.tmp"):  # of processes that were killed
        with suppress(OSError):
            left.unlink()
    audio = manifest["audio"] | {"root": str(files.root)}  # may have been moved
    changed = manifest | {"num_epochs": wanted["num_epochs"], "audio": audio}
    if changed != manifest:
        write_manifest(output, changed)


def _difference(manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    flat = [{**each["augmentation"], **each["front_end"], **each} for each in (manifest, wanted)]
    for name in (*wanted["augmentation"], *wanted["front_end"], "seed", "top_k"):
        old, new = (each.get(name) for each in flat)
        if old != new:
            return f"its `{name}` is {old}, not {new}"
    if manifest["num_epochs"] > wanted["num_epochs"]:
        return f"it has {manifest['num_epochs']} epochs, not {wanted['num_epochs']}; there may only be more"
    labels = describe_label_difference(manifest["labels"], wanted["labels"], "the store", "the teachers")
    return labels or _teacher_difference(manifest["teachers"], wanted["teachers"])


def _teacher_difference(stored: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> str | None:
    if len(stored) != len(wanted):
        before, now = (" and ".join(teacher["name"] for teacher in teachers) for teachers in (stored, wanted))
        return f"its teachers are {before}, not {now}"
    for old, new in zip(stored, wanted, strict=True):
        for key in new.keys() | old.keys():
            if key != "name" and old.get(key) != new.get(key):  # a teacher may be moved, but not changed
                other = f"not {new['name']}" if old["name"] != new["name"] else f"which has changed since ({key})"
                return f"its teacher is {old['name']}, {other}"
    return None


def _file_difference(manifest: Mapping[str, Any], cut: list[str], files: AudioFiles) -> str | None:
    known = {*cut, *(entry["path"] for entry in manifest["audio"]["skipped"])}
    found = {*files.paths, *files.skipped}
    changes = {"gone": sorted(known - found), "new": sorted(found - known)}
    return "; ".join(f"audio files are {how}: {_some(paths)}" for how, paths in changes.items() if paths) or None


def _some(paths: list[str]) -> str:
    more = len(paths) - MAX_NAMED
    return ", ".join(map(describe, paths[:MAX_NAMED])) + (f" and {more:,} more" if more > 0 else "")


def _versions() -> dict[str, str]:
    others = ("torch", "transformers", "numpy", "soundfile", "soxr", "pyarrow")
    return {"ced_model": ced_model.__version__} | {package: version(package) for package in others}


# Teaching


class Batch(NamedTuple):
    """A batch of chunks of a shard."""

    shard: Shard
    chunks: list[int]


class TeachingInputs(Dataset):
    """Computes the features of batches for each front end, or returns the error, in the workers of a `DataLoader`."""

    def __init__(self, store: Store, ensemble: Ensemble) -> None:
        self.store = store
        self.augmentation = store.augmentation
        self.front_ends = ensemble.front_ends  # without the models
        self.reader = ChunkReader(store.audio_root, store.augmentation.chunk_samples)

    def __getitem__(self, batch: Batch) -> tuple[Batch, list[Features] | AudioError]:
        try:
            waveforms = [self.reader.read(self.store.chunk(chunk)) for chunk in batch.chunks]
        except AudioError as error:  # if it were raised here, its message would have the worker's stack trace
            return batch, error
        seeds = [sample_seed(self.store.seed, chunk, batch.shard.epoch) for chunk in batch.chunks]
        pairs = list(zip(waveforms, seeds, strict=True))
        return batch, [each.collate([each(*pair, self.augmentation) for pair in pairs]) for each in self.front_ends]


def _teach_shards(
    store: Store, shards: Sequence[Shard], ensemble: Ensemble, batch_size: int, workers: int, progress: TeachingProgress
) -> None:
    """Computes those of `shards` that do not exist."""
    waiting = list(_waiting(store, shards, progress))
    total, to_do = (sum(shard.stop - shard.start for shard in some) for some in (shards, waiting))
    progress.planned(total, total - to_do)
    if not waiting:
        return
    num_samples = store.chunks["num_samples"].to_numpy()
    equal_lengths = ensemble.needs_equal_lengths
    loader = DataLoader(
        TeachingInputs(store, ensemble),
        sampler=(batch for shard in waiting for batch in plan_batches(shard, num_samples, batch_size, equal_lengths)),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # otherwise it would draw from torch's global state
    )
    k = top_k_of(store.manifest)
    for shard, results in groupby(loader, key=lambda result: result[0].shard):
        seeds = [sample_seed(store.seed, chunk, shard.epoch) for chunk in range(shard.start, shard.stop)]
        shape = (shard.stop - shard.start, k)
        rows = ShardRows(np.array(seeds, np.int32), np.empty(shape, np.float16), np.empty(shape, np.int16))
        for batch, inputs in results:
            if isinstance(inputs, AudioError):
                raise inputs
            places = np.array(batch.chunks) - shard.start
            rows.values[places], rows.indices[places] = top_probabilities(ensemble.probabilities(inputs), k)
            progress.taught(len(places), float(num_samples[batch.chunks].sum()) / SAMPLING_RATE)
        write_shard(store.path, shard, rows, store.manifest)


def _as_it_is(result: Any) -> Any:
    return result


def _waiting(store: Store, shards: Sequence[Shard], progress: TeachingProgress) -> Iterator[Shard]:
    """The `shards` that are missing or corrupt."""
    for shard in shards:
        if (store.path / SHARDS / shard.file_name).exists():
            try:
                read_shard(store.path, shard, store.manifest)
                continue
            except ValueError as error:
                progress.damaged(str(error))
        yield shard


def plan_batches(shard: Shard, num_samples: np.ndarray, batch_size: int, equal_lengths: bool) -> list[Batch]:
    """
    The batches of a shard, with chunks of about the same length, or of exactly the same length. They do not depend on
    anything else, so that a shard that is computed again is the same.
    """
    lengths = num_samples[shard.start : shard.stop]
    order = np.argsort(lengths, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1) if equal_lengths else [order]
    groups = [part[first : first + batch_size] for part in parts for first in range(0, len(part), batch_size)]
    return [Batch(shard, (group + shard.start).tolist()) for group in groups]
