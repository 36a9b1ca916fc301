# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Results of a tagger: tags, events and timelines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .classes import ClassChoice, choice_scores, choose_classes
from .events import THRESHOLD, Event, event_rules, find_events
from .packages import require


class Tag(NamedTuple):
    """
    A class of the model and its score: a probability in [0, 1] (the raw output of a regression model). Of a group of
    classes, the score is the highest of theirs, and the index is -1.
    """

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

    def select(
        self, labels: Any = None, *, exclude: Any = None, label_map: Mapping[str, str | None] | None = None
    ) -> "Timeline":
        """
        The same timeline with other columns.

        Args:
            labels: Classes by name, index or machine id, and groups: `"Dog..."` is "Dog" and all classes below it in
                AudioSet's ontology, in one column with the highest of their scores. A list, or one text with commas
                between names; by default all classes.
            exclude: Classes and groups to leave out, likewise.
            label_map: Own names of classes and groups; an empty one leaves a class out, several classes with the same
                one become one column with the highest of their scores.

        Raises:
            ValueError: for a class that the model does not have.
        """
        return self.take(choose_classes(self.labels, labels, exclude=exclude, label_map=label_map))

    def take(self, choices: Sequence[ClassChoice]) -> "Timeline":
        """The same timeline with a column for each class or group."""
        names = [choice.label for choice in choices]
        return replace(self, scores=choice_scores(self.scores, choices), labels=names)

    def events(
        self,
        thresholds: float | Mapping[str, Any] = THRESHOLD,
        min_duration_s: float = 0.0,
        merge_gap_s: float = 0.0,
        *,
        off_threshold: float | None = None,
        max_duration_s: float | None = None,
        smooth_s: float = 0.0,
        smoothing: str = "median",
        labels: Any = None,
        exclude: Any = None,
        label_map: Mapping[str, str | None] | None = None,
    ) -> list[Event]:
        """
        When each class occurs.

        Args:
            thresholds: score from which an event begins: one for all classes, or by class or group, where those without
                a threshold are left out unless there is one for `"*"`, all others. The value of a class may also be a
                mapping of its own settings, such as `{"threshold": 0.4, "min_duration_s": 0.5}`: any of the arguments
                from `min_duration_s` to `smoothing`.
            min_duration_s: shorter events are left out, after merging.
            merge_gap_s: events of the same class no further apart than this become one.
            off_threshold: score below which an event ends, at most the threshold, which it is by default.
            max_duration_s: longer events are cut into pieces of this length; the last piece may be shorter.
            smooth_s: length in seconds over which scores are smoothed, as the least odd number of windows that takes as
                long; at a hop or less, nothing is smoothed.
            smoothing: `"median"` or `"mean"`.
            labels, exclude, label_map: as for [`Timeline.select`]. Without `labels`, "Silence" is left out, unless
                `thresholds` has it.

        Returns:
            Events ordered by onset, then by offset and label; `peak` is the highest (smoothed) score. Their bounds are
            those of `segments`.

        Raises:
            ValueError: for a class that the model does not have, or a threshold or length that is not a number.
        """
        rules = event_rules(
            self.labels,
            thresholds,
            off_threshold=off_threshold,
            smooth_s=smooth_s,
            smoothing=smoothing,
            min_duration_s=min_duration_s,
            merge_gap_s=merge_gap_s,
            max_duration_s=max_duration_s,
            labels=labels,
            exclude=exclude,
            label_map=label_map,
        )
        hop_s = float(self.start_s[1] - self.start_s[0]) if len(self.start_s) > 1 else self.duration_s
        return find_events(self.scores, self.segments(), hop_s, rules)

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
        recorded_at: when the recording began, as ISO 8601 text, if it was asked for and is known; without an offset
            from UTC, it is the local time of the recorder.
    """

    source: Any = field(repr=False)
    name: str
    duration_s: float
    tags: list[Tag] = field(default_factory=list)
    timeline: Timeline | None = None
    error: Exception | None = None
    recorded_at: str | None = None

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
