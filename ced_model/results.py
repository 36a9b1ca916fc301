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
    A class and its score: a probability in [0, 1], or the raw output of a regression model. The score of a group of
    classes is the highest of its classes, and its index is -1.
    """

    label: str
    score: float
    index: int  # type: ignore[assignment]  # replaces tuple.index


@dataclass(frozen=True)
class Timeline:
    """
    Scores of the windows of one recording.

    Attributes:
        scores: float32 of shape `(windows, classes)`.
        start_s, end_s: Start and end of the windows in seconds, float64 of shape `(windows,)`.
        labels: The names of the classes.
        duration_s: Length of the recording in seconds.
    """

    scores: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    labels: Sequence[str] = field(repr=False)
    duration_s: float = 0.0

    def segments(self) -> np.ndarray:
        """
        The part of the recording that each window represents, in seconds, of shape `(windows, 2)`.

        The overlap of two windows is divided at its middle, so that segments do not overlap.
        """
        borders = np.concatenate([self.start_s[:1], (self.start_s[1:] + self.end_s[:-1]) / 2, self.end_s[-1:]])
        return np.stack([borders[:-1], borders[1:]], axis=1)

    def select(
        self, labels: Any = None, *, exclude: Any = None, label_map: Mapping[str, str | None] | None = None
    ) -> "Timeline":
        """
        The same timeline with other columns.

        Args:
            labels: Classes by name, index or machine id, and groups, by default all classes: a list, or a text with
                names separated by commas. The group `"Dog..."` is "Dog" and all classes below it in the AudioSet
                ontology; it gives one column with the highest of their scores.
            exclude: Classes and groups to leave out.
            label_map: Your own names for classes and groups. An empty name leaves a class out; classes with the same
                name become one column with the highest of their scores.

        Raises:
            ValueError: for a class that the model does not have.
        """
        return self.take(choose_classes(self.labels, labels, exclude=exclude, label_map=label_map))

    def take(self, choices: Sequence[ClassChoice]) -> "Timeline":
        """The same timeline with one column per class or group in `choices`."""
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
        Finds when each class occurs.

        Args:
            thresholds: Score from which an event begins, for all classes; or a mapping by class or group. Classes that
                are not in the mapping are left out, unless it has `"*"`, the threshold of all others. A value may also
                be a mapping of settings for this class, such as `{"threshold": 0.4, "min_duration_s": 0.5}`, with any
                of the arguments from `min_duration_s` to `smoothing`.
            min_duration_s: Shorter events are left out, after merging.
            merge_gap_s: Events of the same class with at most this gap between them are merged.
            off_threshold: Score below which an event ends, by default (and at most) the threshold.
            max_duration_s: Longer events are cut into pieces of this length, at least 0.1 s; the last piece may be
                shorter.
            smooth_s: Length in seconds over which scores are smoothed, rounded up to an odd number of windows. With the
                length of a hop or less, scores are not smoothed.
            smoothing: `"median"` or `"mean"`.
            labels, exclude, label_map: As for [`Timeline.select`]. Without `labels`, "Silence" is left out, unless
                `thresholds` has it.

        Returns:
            Events ordered by onset, then by offset and label. Onset and offset are bounds of `segments`; `peak` is the
            highest (smoothed) score.

        Raises:
            ValueError: for a class that the model does not have, or an invalid threshold or length.
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
        """A `pandas.DataFrame` with one row per window: `start_s`, `end_s` and one column per class."""
        pandas = _pandas()
        scores = pandas.DataFrame(self.scores, columns=list(self.labels))
        bounds = pandas.DataFrame({"start_s": self.start_s, "end_s": self.end_s})
        return pandas.concat([bounds, scores], axis=1)


@dataclass(frozen=True)
class TagResult:
    """
    The result for one of several inputs.

    Attributes:
        source: The input.
        name: Its printable name.
        duration_s: Seconds of audio that were read.
        tags: Its tags, highest score first; empty if `error` is set.
        timeline: Its scores over time, from [`AudioTagger.timelines`].
        error: Set if the input could not be read to its end or scored.
        recorded_at: When the recording began, as ISO 8601 text, if `start_time` was given and the time is known.
            Without an offset from UTC, it is the local time of the recorder.
    """

    source: Any = field(repr=False)
    name: str
    duration_s: float
    tags: list[Tag] = field(default_factory=list)
    timeline: Timeline | None = None
    error: Exception | None = None
    recorded_at: str | None = None

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with one row per tag: `file`, `label`, `score` and `index`."""
        frame = _pandas().DataFrame(self.tags, columns=list(Tag._fields))
        frame.insert(0, "file", self.name)
        return frame


@dataclass(frozen=True)
class EmbeddingResult:
    """
    Embeddings of the windows of one of several inputs.

    Attributes:
        source: The input.
        name: Its printable name.
        duration_s: Seconds of audio that were read.
        embeddings: float32 of shape `(windows, embed_dim)`; no windows if `error` is set.
        start_s, end_s: Start and end of the windows in seconds, float64 of shape `(windows,)`.
        error: Set if the input could not be read to its end or computed.
    """

    source: Any = field(repr=False)
    name: str
    duration_s: float
    embeddings: np.ndarray = field(repr=False)
    start_s: np.ndarray = field(repr=False)
    end_s: np.ndarray = field(repr=False)
    error: Exception | None = None

    def mean(self) -> np.ndarray:
        """The embedding of the input, `(embed_dim,)`: the mean of its window embeddings, weighted by duration."""
        return np.average(self.embeddings, axis=0, weights=self.end_s - self.start_s).astype(np.float32)


class StreamUpdate(NamedTuple):
    """One window of a stream: start and end in seconds, tags, and all scores as float32 of shape `(classes,)`."""

    start_s: float
    end_s: float
    tags: list[Tag]
    scores: np.ndarray


def _pandas() -> Any:
    require(("pandas",), "to_pandas", "pip install pandas")
    return import_module("pandas")  # not an import statement: transformers would require pandas for the custom code
