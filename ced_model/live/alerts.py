# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds alerts in the scores of a live stream: when a class begins, and when it is absent for some time."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from ..classes import choice_scores
from ..events import ROUNDING_S, Rule

HOLD_S = 10.0


@dataclass
class Alert:
    """
    The presence of a class or group.

    Attributes:
        id: Unix time and random digits, the same for start and end.
        label: The class or group.
        onset_s: Start, in seconds of audio since listening started.
        began_at: Start, in seconds since the epoch.
        score: The score at the start; after the end, the peak score.
        offset_s, ended_at: End, or None until then.
        clip: The audio file, if clips are saved.
    """

    id: str
    label: str
    onset_s: float
    began_at: float
    score: float
    offset_s: float | None = None
    ended_at: float | None = None
    clip: str | None = None

    @property
    def is_over(self) -> bool:
        return self.offset_s is not None

    def payload(self, source: str) -> dict[str, Any]:
        """The alert for targets, in JSON types."""
        return {
            "id": self.id,
            "type": "end" if self.is_over else "new",
            "source": source,
            "label": self.label,
            "score": round(self.score, 4),
            "start_time": iso_time(self.began_at),
            "end_time": None if self.ended_at is None else iso_time(self.ended_at),
            "duration_s": None if self.offset_s is None else round(self.offset_s - self.onset_s, 3),
            "clip": self.clip,
        }


@dataclass
class _Watched:
    """The state of one class or group."""

    rule: Rule
    hold_s: float
    is_active: bool = False
    present_s: float | None = None  # start of its presence, or None
    absent_s: float = 0.0  # start of its absence
    absent_at: float = 0.0  # the same in seconds since the epoch
    peak: float = 0.0
    alert: Alert | None = None
    quiet_until_s: float = 0.0


class AlertFinder:
    """
    Finds alerts of the classes in `rules`.

    Args:
        rules: Thresholds of each class or group. An alert begins when the score has reached `threshold` for
            `min_duration_s`. Below `off_threshold` the class is absent.
        hold_s: An alert ends when its class is absent for this time (or for the rule's `merge_gap_s`).
        cooldown_s: Minimum time from the end of an alert to the next of its class.
    """

    def __init__(self, rules: Sequence[Rule], hold_s: float = HOLD_S, cooldown_s: float = 0.0) -> None:
        self.choices = [rule.choice for rule in rules]
        self.watched = [_Watched(rule, rule.merge_gap_s or hold_s) for rule in rules]
        self.cooldown_s = cooldown_s

    def update(
        self, start_s: float, end_s: float, scores: np.ndarray, time_of: Callable[[float], float]
    ) -> list[Alert]:
        """
        Returns alerts that begin or end.

        Args:
            start_s, end_s: The part of the stream that a window represents, in seconds since listening started.
            scores: float32 of shape `(classes,)`.
            time_of: Converts such seconds to seconds since the epoch.
        """
        found = []
        for score, watched in zip(choice_scores(scores, self.choices).tolist(), self.watched, strict=True):
            self._follow(watched, score, start_s, end_s, time_of)
            if watched.alert is None and self._begins(watched, end_s):
                onset_s = max(watched.present_s or 0.0, watched.quiet_until_s)
                began_at = time_of(onset_s)
                number = f"{began_at:.6f}-{secrets.token_hex(3)}"
                watched.alert = Alert(number, watched.rule.choice.label, onset_s, began_at, watched.peak)
                found.append(watched.alert)
            elif watched.alert is not None and not watched.is_active:
                if end_s - watched.absent_s >= watched.hold_s - ROUNDING_S:
                    found.append(self._end(watched))
                    watched.quiet_until_s = end_s + self.cooldown_s
        return found

    def finish(self) -> list[Alert]:
        """Ends all alerts, because audio is interrupted."""
        found = [self._end(watched) for watched in self.watched if watched.alert is not None]
        for watched in self.watched:
            watched.is_active, watched.present_s = False, None
        return found

    def _follow(
        self, watched: _Watched, score: float, start_s: float, end_s: float, time_of: Callable[[float], float]
    ) -> None:
        rule = watched.rule
        off = rule.threshold if rule.off_threshold is None else rule.off_threshold
        watched.is_active = score >= (off if watched.is_active else rule.threshold)
        if watched.is_active:
            if watched.present_s is None:
                watched.present_s, watched.peak = start_s, score
            watched.absent_s, watched.absent_at = end_s, time_of(end_s)
            watched.peak = max(watched.peak, score)
        elif watched.alert is None:
            watched.present_s = None

    def _begins(self, watched: _Watched, end_s: float) -> bool:
        if watched.present_s is None or end_s <= watched.quiet_until_s + ROUNDING_S:
            return False
        return end_s - watched.present_s >= watched.rule.min_duration_s - ROUNDING_S

    def _end(self, watched: _Watched) -> Alert:
        assert watched.alert is not None
        ended = replace(watched.alert, score=watched.peak, offset_s=watched.absent_s, ended_at=watched.absent_at)
        watched.alert = watched.present_s = None
        return ended


def iso_time(seconds: float) -> str:
    """Seconds since the epoch as local time with UTC offset, in ISO 8601."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")
