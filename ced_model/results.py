# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Results of a tagger: tags, events and timelines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .audio import AudioError
from .events import Event, check_event_options, find_events
from .packages import require


class Tag(NamedTuple):
    """A class of the model and its score: a probability in [0, 1] (the raw output of a regression model)."""

    label: str
    score: float
    index: int  # type: ignore[assignment]  # tuple.index is not missed


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
        The part of the recording that each window represents, in seconds, of shape `(windows, 2)`.

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
        When each class reaches its threshold.

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
        return find_events(self.scores, self.segments(), self.labels, thresholds, min_duration_s, merge_gap_s)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for each window: `start_s`, `end_s` and a column for each class."""
        pandas = _pandas()
        scores = pandas.DataFrame(self.scores, columns=list(self.labels))
        bounds = pandas.DataFrame({"start_s": self.start_s, "end_s": self.end_s})
        return pandas.concat([bounds, scores], axis=1)


@dataclass(frozen=True)
class TagResult:
    """
    The result for one of several inputs.

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

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for each tag: `file`, `label`, `score` and `index`."""
        frame = _pandas().DataFrame(self.tags, columns=list(Tag._fields))
        frame.insert(0, "file", self.name)
        return frame


@dataclass(frozen=True)
class EmbeddingResult:
    """
    Embeddings of the windows of one of several inputs.

    Attributes:
        source: the input as it was given.
        name: its printable name.
        duration_s: seconds of audio that were read.
        embeddings: float32 of shape `(windows, embed_dim)`; no windows where `error` is set.
        start_s, end_s: the bounds of the windows in seconds, float64 of shape `(windows,)`.
        error: why the input could not be read (to its end) or computed, or None.
    """

    source: Any = field(repr=False)
    name: str
    duration_s: float
    embeddings: np.ndarray = field(repr=False)
    start_s: np.ndarray = field(repr=False)
    end_s: np.ndarray = field(repr=False)
    error: Exception | None = None

    def mean(self) -> np.ndarray:
        """The embedding of the input, `(embed_dim,)`: the mean of its windows' weighted by their duration."""
        return np.average(self.embeddings, axis=0, weights=self.end_s - self.start_s).astype(np.float32)


class StreamUpdate(NamedTuple):
    """Scores of one window of a stream: its bounds in seconds, its tags, and all scores as float32 `(classes,)`."""

    start_s: float
    end_s: float
    tags: list[Tag]
    scores: np.ndarray


def _pandas() -> Any:
    require(("pandas",), "to_pandas", "pip install pandas")
    return import_module("pandas")  # no statement: transformers would require it of those who load the custom code


def check_scores(scores: np.ndarray, name: str, start_s: float) -> None:
    """Raises an AudioError if scores `(classes,)` of the window of `name` at `start_s` are NaN or infinite."""
    if not np.isfinite(scores).all():
        raise AudioError(
            f"{name}: the model's scores are NaN or infinite (from {start_s:.1f} s on); a model in half precision may"
            " need float32"
        )
