# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Event-based and segment-based precision, recall and F1.

The metrics are those of `sed_eval` 0.2.1 (Mesaros, Heittola, Virtanen: Metrics for polyphonic sound event detection,
Applied Sciences 2016), with its defaults and argument names.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .messages import OptionError, check_number

T_COLLAR, PERCENTAGE_OF_LENGTH, TIME_RESOLUTION = 0.2, 0.5, 1.0
ZERO_SCORE = "zero_score"

Events = Mapping[str, Sequence[Any]]  # by recording; any objects with onset_s, offset_s and label


class Figures(NamedTuple):
    """Metrics from 0 to 1; precision is NaN without predictions, recall without references."""

    f_measure: float
    precision: float
    recall: float


class Counts(NamedTuple):
    """Numbers of events, or of segments in which a class is active."""

    references: int
    predictions: int
    true_positives: int


@dataclass(frozen=True)
class ScoreTable:
    """
    Event-based or segment-based metrics.

    Attributes:
        micro: Metrics of the summed counts of all classes.
        macro: Means over the classes for which a metric is defined.
        per_class: Metrics by class.
        counts: Counts by class.
    """

    micro: Figures
    macro: Figures
    per_class: dict[str, Figures]
    counts: dict[str, Counts]


class EventScores(NamedTuple):
    """Event-based metrics, and metrics of segments of `time_resolution`."""

    event_based: ScoreTable
    segment_based: ScoreTable


@dataclass(frozen=True)
class ScoringOptions:
    """
    How events are compared.

    Attributes:
        t_collar: Tolerance for onsets and offsets in seconds.
        percentage_of_length: Tolerance for offsets as a share of the reference's length, from 0 to 1, if it is larger.
        evaluate_onset, evaluate_offset: Whether onsets and offsets have to match.
        time_resolution: Length of the segments in seconds.
        empty_system_output_handling: Precision and F1 of a class without predictions: not defined (None), or 0
            (`"zero_score"`, as in the DCASE challenges).

    Raises:
        OptionError: for an invalid value.
    """

    t_collar: float = T_COLLAR
    percentage_of_length: float = PERCENTAGE_OF_LENGTH
    evaluate_onset: bool = True
    evaluate_offset: bool = True
    time_resolution: float = TIME_RESOLUTION
    empty_system_output_handling: str | None = None

    def __post_init__(self) -> None:
        for name in ("t_collar", "percentage_of_length", "time_resolution"):
            check_number(name, getattr(self, name), 0)
        for name in ("t_collar", "time_resolution"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(name, getattr(self, name), "more than 0 seconds")
        if self.percentage_of_length > 1:
            raise OptionError("percentage_of_length", self.percentage_of_length, "a share from 0 to 1")
        if not (self.evaluate_onset or self.evaluate_offset):
            raise OptionError("evaluate_offset", False, "onsets or offsets to evaluate")
        if self.empty_system_output_handling not in (None, ZERO_SCORE):
            raise OptionError(
                "empty_system_output_handling", self.empty_system_output_handling, f"None or {ZERO_SCORE}"
            )


def score_events(
    references: Events, predictions: Events, *, labels: Sequence[str] | None = None, **options: Any
) -> EventScores:
    """
    Compares predicted events with reference events.

    A prediction matches a reference of the same class and recording if its onset differs by at most `t_collar`, and its
    offset by at most `t_collar` or `percentage_of_length` of the reference's length, whichever is larger. Each event is
    matched at most once, with the largest possible number of matches (`"optimal"` matching). A class is active in a
    segment if any part of one of its events is in it.

    Args:
        references, predictions: Events by recording, such as [`Event`]s. A recording may have no references or no
            predictions.
        labels: The classes to score, by default those of the references. Events of other classes are ignored.
        options: Attributes of [`ScoringOptions`].

    Raises:
        OptionError: for an invalid option.
    """
    how = ScoringOptions(**options)
    if labels is None:
        labels = sorted({event.label for events in references.values() for event in events})
    recordings = dict.fromkeys([*references, *predictions])
    tables = []
    for count in (_count_events, _count_segments):
        counts = {label: np.zeros(3, int) for label in labels}
        for recording in recordings:
            wanted, found = (_by_class(events.get(recording, ())) for events in (references, predictions))
            for label in labels:
                if label in wanted or label in found:
                    counts[label] += count(wanted.get(label, []), found.get(label, []), how)
        tables.append(_table({label: Counts(*map(int, each)) for label, each in counts.items()}, how))
    return EventScores(*tables)


def _by_class(events: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for event in events:
        found.setdefault(event.label, []).append(event)
    return found


def _count_events(references: Sequence[Any], predictions: Sequence[Any], how: ScoringOptions) -> Counts:
    onsets, offsets = _bounds(references)
    found_onsets, found_offsets = _bounds(predictions)
    hits = np.ones((len(references), len(predictions)), bool)
    if how.evaluate_onset:
        hits &= np.abs(onsets[:, None] - found_onsets) <= how.t_collar
    if how.evaluate_offset:
        allowed = np.maximum(how.t_collar, how.percentage_of_length * (offsets - onsets))
        hits &= np.abs(offsets[:, None] - found_offsets) <= allowed[:, None]
    return Counts(len(references), len(predictions), most_pairs(hits))


def _bounds(events: Sequence[Any]) -> np.ndarray:
    return np.array([(event.onset_s, event.offset_s) for event in events], float).reshape(-1, 2).T


def most_pairs(hits: np.ndarray) -> int:
    """The size of the largest matching of rows and columns where `hits`, bool of shape `(rows, columns)`, is True."""
    row_of: dict[int, int] = {}
    column_of: dict[int, int] = {}
    candidates = [np.flatnonzero(row).tolist() for row in hits]
    for start in range(len(hits)):
        reached_from: dict[int, int] = {}  # columns by the row that leads to them
        queue = deque([start])
        while queue:
            row = queue.popleft()
            new = [column for column in candidates[row] if column not in reached_from]
            reached_from.update(dict.fromkeys(new, row))
            free = next((column for column in new if column not in row_of), None)
            if free is None:
                queue.extend(row_of[column] for column in new)
                continue
            while free is not None:  # each row on the path takes this column and releases its own
                row = reached_from[free]
                row_of[free] = row
                left = column_of.get(row)
                column_of[row], free = free, left
            break
    return len(row_of)


def _count_segments(references: Sequence[Any], predictions: Sequence[Any], how: ScoringOptions) -> Counts:
    active, found = (_segments(events, how.time_resolution) for events in (references, predictions))
    return Counts(len(active), len(found), len(active & found))


def _segments(events: Sequence[Any], resolution_s: float) -> set[int]:
    segments: set[int] = set()
    for event in events:
        segments.update(range(math.floor(event.onset_s / resolution_s), math.ceil(event.offset_s / resolution_s)))
    return segments


def _table(counts: dict[str, Counts], how: ScoringOptions) -> ScoreTable:
    per_class = {label: _figures(each, how) for label, each in counts.items()}
    total = Counts(*(sum(column) for column in zip(*counts.values(), strict=True))) if counts else Counts(0, 0, 0)
    macro = Figures(*(_mean(column) for column in zip(*per_class.values(), strict=True))) if counts else None
    return ScoreTable(_figures(total, how), macro or Figures(*[math.nan] * 3), per_class, counts)


def _figures(counts: Counts, how: ScoringOptions) -> Figures:
    empty = 0.0 if how.empty_system_output_handling == ZERO_SCORE else math.nan
    precision = counts.true_positives / counts.predictions if counts.predictions else empty
    recall = counts.true_positives / counts.references if counts.references else math.nan
    if precision == recall == 0:
        return Figures(0.0, precision, recall)
    return Figures(2 * precision * recall / (precision + recall), precision, recall)


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
