# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What a tagger finds: tags, events and timelines."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .audio import AudioError

ROUNDING_S = 1e-6  # times are sums of whole samples in floating point; one sample is far longer


class Tag(NamedTuple):
    """A class of the model and its score: a probability in [0, 1] (the raw output of a regression model)."""

    label: str
    score: float
    index: int  # type: ignore[assignment]  # tuple.index is not missed


class Event(NamedTuple):
    """A stretch of audio in which a class sounds, in seconds from the start, and its highest score there."""

    onset_s: float
    offset_s: float
    label: str
    peak: float


@dataclass(frozen=True)
class Timeline:
    """
    Scores of the windows of one recording.

    Attributes:
        scores: float32 of shape `(windows, classes)`.
        start_s, end_s: the bounds of the windows in seconds, float64 of shape `(windows,)`.
        labels: the names of the classes.
        duration_s: length of the recording in seconds.
    """

    scores: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    labels: Sequence[str] = field(repr=False)
    duration_s: float = 0.0

    def segments(self) -> np.ndarray:
        """
        The stretch of the recording that each window stands for, in seconds, of shape `(windows, 2)`.

        Overlapping windows share their overlap in halves, so that the segments cover the recording once.
        """
        borders = np.concatenate([self.start_s[:1], (self.start_s[1:] + self.end_s[:-1]) / 2, self.end_s[-1:]])
        return np.stack([borders[:-1], borders[1:]], axis=1)

    def events(
        self,
        thresholds: float | Mapping[str, float] = 0.5,
        min_duration_s: float = 0.0,
        merge_gap_s: float = 0.0,
    ) -> list[Event]:
        """
        The stretches in which a class reaches its threshold.

        Args:
            thresholds: score from which a class counts as present: one for all classes, or by class name, where
                classes without a threshold are left out.
            min_duration_s: shorter events are left out, after merging.
            merge_gap_s: events of the same class no further apart than this become one.

        Returns:
            Events ordered by onset, then by offset and label. Their bounds are those of `segments`, so they are exact
            to about half a hop.

        Raises:
            ValueError: for a class that the model does not have, or a threshold or length that is not a number.
        """
        check_event_options(self.labels, thresholds, min_duration_s, merge_gap_s)
        if isinstance(thresholds, Mapping):
            limits = {find_label(self.labels, name): limit for name, limit in thresholds.items()}
        else:
            limits = dict.fromkeys(range(len(self.labels)), thresholds)
        segments = self.segments()
        events = []
        for index, limit in limits.items():
            scores = self.scores[:, index]
            for first, last in _runs(scores >= limit, segments, merge_gap_s):
                onset_s, offset_s = float(segments[first, 0]), float(segments[last, 1])
                if offset_s - onset_s >= min_duration_s - ROUNDING_S:
                    peak = float(scores[first : last + 1].max())
                    events.append(Event(onset_s, offset_s, self.labels[index], peak))
        return sorted(events, key=lambda event: (event.onset_s, event.offset_s, event.label))


def _runs(active: np.ndarray, segments: np.ndarray, merge_gap_s: float) -> list[list[int]]:
    """First and last position of the runs of True in `active`, joined where the gap between them is short enough."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    runs: list[list[int]] = []
    for first, after in edges.reshape(-1, 2).tolist():
        if runs and segments[first, 0] - segments[runs[-1][1], 1] <= merge_gap_s + ROUNDING_S:
            runs[-1][1] = after - 1
        else:
            runs.append([first, after - 1])
    return runs


@dataclass(frozen=True)
class TagResult:
    """
    What was found in one of several inputs.

    Attributes:
        source: the input as it was given.
        name: its printable name.
        duration_s: seconds of audio that were read.
        tags: its tags, the highest score first; empty where `error` is set.
        timeline: the scores of its windows, if they were asked for.
        error: why the input could not be read (to its end) or scored, or None.
    """

    source: Any = field(repr=False)
    name: str
    duration_s: float
    tags: list[Tag] = field(default_factory=list)
    timeline: Timeline | None = None
    error: Exception | None = None


class StreamUpdate(NamedTuple):
    """Scores of one window of a stream: its bounds in seconds, its tags, and all scores as float32 `(classes,)`."""

    start_s: float
    end_s: float
    tags: list[Tag]
    scores: np.ndarray


def find_label(labels: Sequence[str], name: str) -> int:
    """
    The index of the class `name`, upper or lower case.

    Raises:
        ValueError: if there is no such class; it names similar ones.
    """
    if not isinstance(name, str):
        raise ValueError(f"A class is chosen by its name, got {name!r}.")
    lowered = [label.lower() for label in labels]
    if name.lower() in lowered:
        return lowered.index(name.lower())
    close = [labels[lowered.index(match)] for match in difflib.get_close_matches(name.lower(), lowered, n=3)]
    close += [label for label in labels if name.lower() in label.lower() and label not in close][:3]
    hint = f" Did you mean {', '.join(repr(label) for label in close)}?" if close else ""
    raise ValueError(f"The model has no class {name!r}.{hint}")


def check_number(name: str, value: Any, minimum: float = -math.inf) -> None:
    """Raises a ValueError if `value` is no number from `minimum` on."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value >= minimum:
        wanted = "a number" if minimum == -math.inf else f"a number from {minimum:g}"
        raise ValueError(f"`{name}={value!r}`: expected {wanted}.")


def check_scores(scores: np.ndarray, name: str, start_s: float) -> None:
    """Raises an AudioError if scores `(classes,)` of the window of `name` at `start_s` are NaN or infinite."""
    if not np.isfinite(scores).all():
        raise AudioError(
            f"{name}: the model's scores are NaN or infinite (from {start_s:.1f} s on); a model in half precision may"
            " need float32"
        )


def check_event_options(labels: Sequence[str], thresholds: Any, min_duration_s: Any, merge_gap_s: Any) -> None:
    """Raises a ValueError if events cannot be found with these options of [`Timeline.events`]."""
    if isinstance(thresholds, Mapping):
        for name, limit in thresholds.items():
            find_label(labels, name)
            check_number(f"thresholds[{name!r}]", limit)
    else:
        check_number("thresholds", thresholds)
    check_number("min_duration_s", min_duration_s, 0)
    check_number("merge_gap_s", merge_gap_s, 0)
