# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Labelled clips, and reasons for leaving clips out."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ..audio import describe
from ..messages import count

ALL = "all"
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
MISSING = "there is no such file"
SHOWN = 3  # examples in a message


class Skipped(NamedTuple):
    """A clip that is left out, and the reason in one line."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class LabelledClips:
    """
    Audio files and their targets.

    Attributes:
        paths: Paths of the audio files, without duplicates.
        targets: float32 of shape `(clips, classes)` with values in [0, 1].
        labels: Names of the classes.
        problem_type: `"single_label_classification"`, where each clip has exactly one class, or
            `"multi_label_classification"`.
        skipped: Clips that were left out, with the reason.
        notes: Notes on the data for the user, one line each.
    """

    paths: list[str]
    targets: np.ndarray = field(repr=False)
    labels: list[str] = field(repr=False)
    problem_type: str = MULTI_LABEL
    skipped: list[Skipped] = field(default_factory=list, repr=False)
    notes: list[str] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_soft_targets(self) -> bool:
        """Whether some targets are neither 0 nor 1."""
        return bool(((self.targets != 0) & (self.targets != 1)).any())

    def select(self, indices: Iterable[int]) -> "LabelledClips":
        """The clips with these indices, with the same classes."""
        kept = list(indices)
        return replace(self, paths=[self.paths[index] for index in kept], targets=self.targets[kept])


def detect_problem_type(targets: np.ndarray, is_explicit: bool) -> str:
    counts = (targets > 0).sum(axis=1)
    if ((targets != 0) & (targets != 1)).any():
        return MULTI_LABEL
    if is_explicit:
        return SINGLE_LABEL if (counts == 1).all() and targets.shape[1] > 1 else MULTI_LABEL
    return SINGLE_LABEL if (counts <= 1).all() else MULTI_LABEL


def checked_targets(clips: LabelledClips, name: str) -> LabelledClips:
    """Leaves out clips without a label. Raises a `ValueError` if targets do not fit the problem type."""
    if clips.problem_type == MULTI_LABEL:
        return clips
    counts = (clips.targets > 0).sum(axis=1)
    if (counts > 1).any():
        index = int(np.argmax(counts > 1))
        names = [clips.labels[column] for column in np.flatnonzero(clips.targets[index])]
        raise ValueError(
            f"{name}: single-label data need one class per clip, but {describe(clips.paths[index])} has {shown(names)}."
        )
    if clips.has_soft_targets:
        raise ValueError(f"{name}: single-label data need targets of 0 and 1, but these are soft.")
    return _leave_out(clips, {int(index): "it has no label" for index in np.flatnonzero(counts == 0)})


def without_duplicates(clips: LabelledClips) -> LabelledClips:
    """Removes duplicates. Files listed with different labels are left out."""
    places: dict[str, list[int]] = {}
    for index, path in enumerate(clips.paths):
        places.setdefault(os.path.abspath(path), []).append(index)
    repeated = [indices for indices in places.values() if len(indices) > 1]
    if not repeated:
        return clips
    dropped = {index for indices in repeated for index in indices[1:]}
    order = [index for index in range(len(clips)) if index not in dropped]
    contradictory = {indices[0] for indices in repeated if np.ptp(clips.targets[indices], axis=0).any()}
    doubles = [indices[0] for indices in repeated if indices[0] not in contradictory]
    notes = list(clips.notes)
    if doubles:
        example = describe(clips.paths[doubles[0]])
        notes.append(f"{count(len(doubles), 'file')} listed more than once, such as {example}: each is used once")
    reason = "listed more than once, with different labels"
    reasons = {place: reason for place, index in enumerate(order) if index in contradictory}
    return _leave_out(replace(clips.select(order), notes=notes), reasons)


def without_missing(clips: LabelledClips) -> LabelledClips:
    reasons: dict[int, str] = {}
    for index, path in enumerate(clips.paths):
        if "://" in path:
            reasons[index] = "URLs are not fetched: download it first"
        elif not os.path.exists(path):
            reasons[index] = MISSING
    return _leave_out(clips, reasons)


def _leave_out(clips: LabelledClips, reasons: Mapping[int, str]) -> LabelledClips:
    if not reasons:
        return clips
    skipped = [Skipped(clips.paths[index], reason) for index, reason in sorted(reasons.items())]
    kept = clips.select(index for index in range(len(clips)) if index not in reasons)
    return replace(kept, skipped=[*clips.skipped, *skipped])


def shown(names: Iterable[str], most: int = SHOWN) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (", …" if len(names) > most else "")
