# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores over time → events."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .classes import find_label
from .messages import check_number

ROUNDING_S = 1e-6  # times are sums of whole samples in floating point; one sample is far longer


class Event(NamedTuple):
    """When a class occurs: onset and offset in seconds from the start, and its highest score in between."""

    onset_s: float
    offset_s: float
    label: str
    peak: float


def find_events(
    scores: np.ndarray,
    segments: np.ndarray,
    labels: Sequence[str],
    thresholds: float | Mapping[str, float],
    min_duration_s: float,
    merge_gap_s: float,
) -> list[Event]:
    """
    When each class reaches its threshold.

    Args:
        scores: float32 of shape `(windows, classes)`.
        segments: The part of the recording that each window represents, in seconds, of shape `(windows, 2)`.
        labels: The names of the classes.
        thresholds, min_duration_s, merge_gap_s: As for [`Timeline.events`].

    Returns:
        Events ordered by onset, then by offset and label.
    """
    if isinstance(thresholds, Mapping):
        limits = {find_label(labels, name): limit for name, limit in thresholds.items()}
    else:
        limits = dict.fromkeys(range(len(labels)), thresholds)
    events = []
    for index, limit in limits.items():
        column = scores[:, index]
        for first, last in _runs(column >= limit, segments, merge_gap_s):
            onset_s, offset_s = float(segments[first, 0]), float(segments[last, 1])
            if offset_s - onset_s >= min_duration_s - ROUNDING_S:
                peak = float(column[first : last + 1].max())
                events.append(Event(onset_s, offset_s, labels[index], peak))
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


def check_event_options(labels: Sequence[str], thresholds: Any, min_duration_s: Any, merge_gap_s: Any) -> None:
    """Raises an [`OptionError`] if events cannot be found with these options of [`Timeline.events`]."""
    if isinstance(thresholds, Mapping):
        for name, limit in thresholds.items():
            find_label(labels, name)
            check_number(f"thresholds[{name!r}]", limit)
    else:
        check_number("thresholds", thresholds)
    check_number("min_duration_s", min_duration_s, 0)
    check_number("merge_gap_s", merge_gap_s, 0)
