# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""PSDS, the polyphonic sound detection score (Bilen et al., ICASSP 2020), computed by sed_scores_eval."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .events import Rule, smoothed, smoothing_windows
from .packages import require
from .results import Timeline

# The two scenarios of DCASE 2021 to 2024, task 4: fast reaction, and little confusion of classes.
PSDS_SCENARIOS: dict[str, dict[str, float | None]] = {
    "PSDS1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "cttc_threshold": None, "alpha_ct": 0.0, "alpha_st": 1.0},
    "PSDS2": {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0},
}
MAX_EFPR = 100.0  # upper limit of the integration, in false positives per hour


class Frames(NamedTuple):
    """Scores of a recording `(frames, classes)`, bounds of the frames `(frames + 1,)` and length in seconds."""

    scores: np.ndarray
    bounds_s: np.ndarray
    duration_s: float


def check_psds() -> None:
    """Raises a `MissingPackageError` if sed_scores_eval is not installed."""
    require(("sed_scores_eval",), "PSDS")


def smoothed_frames(timeline: Timeline, rules: Sequence[Rule]) -> Frames:
    """The scores of a timeline for each rule, with the rule's smoothing; its other settings are ignored."""
    segments = timeline.segments()
    hop_s = float(timeline.start_s[1] - timeline.start_s[0]) if len(timeline.start_s) > 1 else timeline.duration_s
    scores = timeline.take([rule.choice for rule in rules]).scores.copy()
    for column, rule in enumerate(rules):
        scores[:, column] = smoothed(scores[:, column], smoothing_windows(rule.smooth_s, hop_s), rule.smoothing)
    return Frames(scores, np.append(segments[:, 0], segments[-1, 1]), timeline.duration_s)


def psds(
    frames: Mapping[str, Frames], references: Mapping[str, Sequence[Any]], labels: Sequence[str]
) -> dict[str, float]:
    """
    PSDS of both scenarios.

    Args:
        frames: Frames by recording.
        references: Events of each of these recordings. Events of the same class must not overlap.
        labels: The classes of the columns of the scores.

    Returns:
        PSDS from 0 to 1 by scenario. PSDS2, which measures confusion of classes, is left out for a single class.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sed_scores_eval.base_modules.scores import create_score_dataframe
        from sed_scores_eval.intersection_based import psds as score

        names = {recording: str(index) for index, recording in enumerate(frames)}
        lengths = {names[recording]: each.duration_s for recording, each in frames.items()}
        truth = {
            name: [(each.onset_s, min(each.offset_s, lengths[name]), str(each.label)) for each in references[recording]]
            for recording, name in names.items()
        }
        inputs = {
            "scores": {
                names[recording]: create_score_dataframe(each.scores, each.bounds_s, list(labels))
                for recording, each in frames.items()
            },
            "ground_truth": truth,
            "audio_durations": lengths,
            "unit_of_time": "hour",
            "max_efpr": MAX_EFPR,
        }
        possible = list(PSDS_SCENARIOS)[: len(labels)]
        return {name: float(score(**inputs, **PSDS_SCENARIOS[name])[0]) for name in possible}
