# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The clips for training and for validation."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...audio import AudioError, describe, duration_s, read_blocks
from ...labelled import ALL, SINGLE_LABEL, LabelledClips, Skipped, find_splits, read_labelled
from ...messages import printable
from ...output import write_file
from ...strong_labels import StrongClips, write_strong_clips
from ...tagger import AudioTagger
from .events import read_events
from .options import FinetuningOptions

TRAIN_SPLITS = ("train", "training")
VALIDATION_SPLITS = ("validation", "valid", "val", "dev", "eval")

CHECK_THREADS = 8
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # such as the bytes of a folder name that is not UTF-8

DataSource = str | os.PathLike | LabelledClips


@dataclass(frozen=True)
class FinetuningClips:
    """
    Clips for training and for validation.

    Attributes:
        training, validation: Clips that can be read.
        training_lengths, validation_lengths: Their lengths in samples.
        name: Name of the data, for the model card.
        is_held_out: Whether the validation clips were taken from the training data.
        notes: Remarks, one line each.
    """

    training: LabelledClips
    training_lengths: list[int]
    validation: LabelledClips | None
    validation_lengths: list[int]
    name: str
    is_held_out: bool
    notes: list[str]

    @property
    def skipped(self) -> list[Skipped]:
        every = [*self.training.skipped, *(self.validation.skipped if self.validation is not None else [])]
        return list(dict.fromkeys(every))


def read_clips(
    data: DataSource,
    validation: DataSource | None,
    tagger: AudioTagger,
    reading: dict[str, Any],
    options: FinetuningOptions,
    events: bool = False,
) -> FinetuningClips:
    held_apart: LabelledClips | None = None
    if events:
        root = reading.get("audio_root")
        training: LabelledClips = read_events(data, tagger.labels, root)  # type: ignore[arg-type]
        if validation is not None:
            held_apart = read_events(validation, tagger.labels, root, training.labels)  # type: ignore[arg-type]
            if not held_apart.targets.any():
                raise ValueError("The recordings for validation have no events.")
    else:
        split = reading.pop("split", None)
        training, held_apart = _read_training(data, split, tagger.labels, reading)
        _check_classes(training)
        if validation is not None:
            held_apart = _read_validation(validation, None, training, reading)
    if (name := next(filter(NO_TEXT.search, training.labels), None)) is not None:
        raise ValueError(f"The class {printable(name)!r} has a name that is not valid text: rename it.")
    notes = [*training.notes, *([] if held_apart is None else held_apart.notes)]
    training, lengths = check_clips(training, tagger.sampling_rate)
    name = "the given clips" if isinstance(data, LabelledClips) else Path(data).absolute().name
    if held_apart is not None:
        _check_disjoint(training, held_apart)
        held_apart, validation_lengths = check_clips(held_apart, tagger.sampling_rate)
        return FinetuningClips(training, lengths, held_apart, validation_lengths, name, False, notes)
    if not options.validation_share:
        return FinetuningClips(training, lengths, None, [], name, False, notes)
    kept, held_out = hold_out(training.targets, options.validation_share, options.seed)
    if not held_out:
        raise ValueError(
            f"No class of {name} has two clips, so none can be held out for validation: add clips, give validation"
            " clips, or set the validation share to 0."
        )
    chosen = [[lengths[index] for index in indices] for indices in (kept, held_out)]
    validation_clips = replace(training.select(held_out), skipped=[])
    return FinetuningClips(training.select(kept), chosen[0], validation_clips, chosen[1], name, True, notes)


def _read_training(
    data: DataSource, split: str | None, model_labels: list[str], reading: dict[str, Any]
) -> tuple[LabelledClips, LabelledClips | None]:
    """Reads training clips, and validation clips if the data have such a split."""
    if isinstance(data, LabelledClips):
        return data, None
    splits = find_splits(data)
    split = split or _find_split(splits, TRAIN_SPLITS)
    if len(splits) > 1 and split is None:
        shown = ", ".join(map(repr, splits))
        raise ValueError(f"{describe(data)}: choose a split for training: {shown}, or {ALL!r}")
    training = read_labelled(data, split=split, model_classes=model_labels, **reading)
    if len(splits) < 2 or split == ALL:
        return training, None
    training = replace(training, notes=[*training.notes, f"training with split {split!r} of {', '.join(splits)}"])
    validation_split = _find_split([name for name in splits if name != split], VALIDATION_SPLITS)
    if validation_split is None:
        return training, None
    return training, _read_validation(data, validation_split, training, reading)


def _find_split(splits: Sequence[str], names: Sequence[str]) -> str | None:
    return next((split for split in splits if split.lower() in names), None)


def _read_validation(
    data: DataSource, split: str | None, training: LabelledClips, reading: dict[str, Any]
) -> LabelledClips:
    """Reads validation clips with the classes of the training clips."""
    if isinstance(data, LabelledClips):
        if data.labels != training.labels or data.problem_type != training.problem_type:
            raise ValueError("The validation clips must have the classes of the training clips, in the same order.")
        return data
    if split is None:
        split = _find_split(find_splits(data), VALIDATION_SPLITS)
    options = {**reading, "classes": training.labels, "problem_type": training.problem_type}
    try:
        return read_labelled(data, split=split, **options)
    except ValueError as error:
        raise ValueError(f"For validation: {error}") from error


def _check_classes(clips: LabelledClips) -> None:
    """Raises a ValueError if the clips do not differ in their classes."""
    if clips.problem_type == SINGLE_LABEL and len(clips.labels) < 2:
        raise ValueError(f"All clips have the class {clips.labels[0]!r}: training needs at least two classes.")
    if (clips.targets >= 0.5).all():
        raise ValueError("Every clip has every class: training needs clips with and without each class.")


def _check_disjoint(training: LabelledClips, validation: LabelledClips) -> None:
    known = {os.path.realpath(path) for path in training.paths}
    doubles = [path for path in validation.paths if os.path.realpath(path) in known]
    if doubles:
        raise ValueError(
            f"{len(doubles)} of {len(validation)} validation clips are also training clips, such as"
            f" {describe(doubles[0])}: remove them from one of the two."
        )


def check_clips(clips: LabelledClips, sampling_rate: int) -> tuple[LabelledClips, list[int]]:
    """
    Leaves out clips that cannot be read as audio. Only the header and the first second of each file are checked; a file
    with damage after that is used up to it.

    Returns:
        The readable clips, with the others in `skipped`, and their lengths in samples at `sampling_rate`.

    Raises:
        ValueError: if no clip can be read.
    """

    def measure(path: str) -> int | Skipped:
        try:
            return _count_samples(path, sampling_rate)
        except (AudioError, OSError) as error:
            reason = " ".join(str(error).split()).removeprefix(f"{describe(path)}: ")
            return Skipped(path, reason)

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        found = list(pool.map(measure, clips.paths))
    skipped = [item for item in found if isinstance(item, Skipped)]
    lengths = [item for item in found if isinstance(item, int)]
    if not lengths:
        raise ValueError(f"None of the {len(found)} clips can be read, such as {skipped[0].path}: {skipped[0].reason}")
    readable = clips.select(index for index, item in enumerate(found) if isinstance(item, int))
    return replace(readable, skipped=[*clips.skipped, *skipped]), lengths


def _count_samples(path: str, sampling_rate: int) -> int:
    with closing(read_blocks(path, sampling_rate=sampling_rate, block_s=1.0)) as blocks:  # type: ignore[type-var]
        beginning = len(next(blocks))
        seconds = duration_s(path)
        if seconds is not None:
            return max(beginning, round(seconds * sampling_rate))
        for block in blocks:
            beginning += len(block)
    return beginning


def hold_out(targets: np.ndarray, share: float, seed: int) -> tuple[list[int], list[int]]:
    """
    Splits clips into training and validation, with the same share in each class.

    A clip with several classes counts for the rarest of them. If a class has at least two clips, at least one is held
    out and at least one is not; a single clip is used for training.

    Args:
        targets: Targets from 0 to 1, of shape `(clips, classes)`.
        share: Share of the clips to hold out, above 0 and below 1.

    Returns:
        The indices of the training clips and of the validation clips, in ascending order.
    """
    present = targets >= 0.5
    rarity = np.where(present, present.sum(axis=0), np.inf)
    strata = np.where(present.any(axis=1), rarity.argmin(axis=1), -1)
    generator = np.random.default_rng(seed)
    held_out: list[int] = []
    for stratum in np.unique(strata):
        indices = generator.permutation(np.flatnonzero(strata == stratum))
        most = len(indices) - 1
        held_out += indices[: min(max(round(share * len(indices)), 1), most)].tolist()
    return sorted(set(range(len(targets))) - set(held_out)), sorted(held_out)


def digest(clips: LabelledClips | None) -> str | None:
    """Number of clips and a checksum of their paths and targets."""
    if clips is None:
        return None
    checksum = hashlib.sha256(os.fsencode("\0".join(map(os.path.abspath, clips.paths))))
    checksum.update(np.ascontiguousarray(clips.targets).tobytes())
    if isinstance(clips, StrongClips):
        checksum.update(repr(clips.events).encode())
    return f"{len(clips)}, {checksum.hexdigest()[:16]}"


def write_table(path: Path, clips: LabelledClips) -> None:
    """Writes clips as a table for [`read_labelled`], or for [`read_strong_labels`] if they have strong labels."""
    if isinstance(clips, StrongClips):
        write_strong_clips(path, clips)
        return
    lines = []
    for file, targets in zip(clips.paths, clips.targets, strict=True):
        labels = [clips.labels[index] for index in np.flatnonzero(targets >= 0.5)]
        lines.append(json.dumps({"file_name": os.path.abspath(file), "labels": labels}) + "\n")
    write_file(path, "".join(lines).encode())
