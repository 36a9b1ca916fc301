# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Events from scores over time: smoothing, thresholds, merging."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .classes import NO_INDEX, ClassChoice, choice_scores, choose_classes, find_choice, fold
from .messages import OptionError, UsageError, check_number

ROUNDING_S = 1e-6  # tolerance for rounding errors of times; a sample is far longer
THRESHOLD = 0.5
OTHERS = "*"  # in thresholds by class: all other classes
SILENCE = "Silence"  # left out of events unless it is given
SMOOTHINGS = ("median", "mean")
MAX_SMOOTH_S = 3600.0
MIN_PIECE_S = 0.1  # lower bound of `max_duration_s`, so that an event has a bounded number of pieces
BLOCK = 2**22  # number of scores smoothed at once


class Event(NamedTuple):
    """When a class occurs: onset and offset in seconds from the start, and its highest score in between."""

    onset_s: float
    offset_s: float
    label: str
    peak: float


@dataclass(frozen=True)
class Rule:
    """How events of one class or group are found; the attributes are arguments of [`Timeline.events`]."""

    choice: ClassChoice
    threshold: float = THRESHOLD
    off_threshold: float | None = None
    smooth_s: float = 0.0
    smoothing: str = "median"
    min_duration_s: float = 0.0
    merge_gap_s: float = 0.0
    max_duration_s: float | None = None


SETTINGS = tuple(name for name in Rule.__dataclass_fields__ if name != "choice")
# The options of `Timeline.events`.
EVENT_OPTIONS = ("thresholds", *SETTINGS[1:], "labels", "exclude", "label_map")


def event_rules(
    class_labels: Sequence[str],
    thresholds: Any = THRESHOLD,
    *,
    labels: Any = None,
    exclude: Any = None,
    label_map: Mapping[str, str | None] | None = None,
    **common: Any,
) -> list[Rule]:
    """
    The [`Rule`] of each class or group to find.

    Args:
        class_labels: The classes of the model.
        thresholds, labels, exclude, label_map: As for [`Timeline.events`].
        common: Attributes of all rules.

    Raises:
        OptionError: for invalid options.
    """
    if unknown := common.keys() - set(SETTINGS[1:]):
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    for option, value in common.items():
        check_setting(option, value, option)
    limits = class_limits(class_labels, thresholds, labels=labels, exclude=exclude, label_map=label_map)
    rules = []
    for choice, own in limits:
        settings = common | own
        off_threshold = settings.get("off_threshold")
        if off_threshold is not None and off_threshold > settings["threshold"]:
            if "off_threshold" in own or not isinstance(thresholds, Mapping):
                wanted = f"at most the threshold, which is {settings['threshold']:g}"
                raise OptionError("off_threshold", off_threshold, wanted)
            settings["off_threshold"] = None  # the common one is above the threshold of this class
        rules.append(Rule(choice, **settings))
    return rules


def class_limits(
    class_labels: Sequence[str],
    thresholds: Any,
    *,
    labels: Any = None,
    exclude: Any = None,
    label_map: Mapping[str, str | None] | None = None,
    with_silence: bool = False,
    option: str = "thresholds",
) -> list[tuple[ClassChoice, dict[str, Any]]]:
    """
    Classes and groups with their settings, including `threshold`. Arguments are those of [`event_rules`].

    Args:
        with_silence: Whether to include "Silence" if no `labels` are given.
        option: Name of `thresholds` in errors.
    """
    if not isinstance(thresholds, Mapping):
        check_number(option, thresholds)
        if labels is None and not with_silence:
            exclude = _without_silence(class_labels, exclude, [])
        chosen = choose_classes(class_labels, labels, exclude=exclude, label_map=label_map)
        return [(choice, {"threshold": thresholds}) for choice in chosen]
    by_class = {name: _settings_of(f"{option}[{name!r}]", name, value) for name, value in thresholds.items()}
    others = by_class.pop(OTHERS, None)
    if others is None:
        for each in by_class.values():
            each.setdefault("threshold", THRESHOLD)
    named = [name for name, settings in by_class.items() if "threshold" in settings or others]
    own = {} if label_map is None else {str(name): name for name in label_map.values() if name}
    keys = {name: None if name in own else find_choice(class_labels, name, option) for name in by_class}
    if labels is None and others is not None:
        asked_for = [choice for choice in keys.values() if choice]
        out = exclude if with_silence else _without_silence(class_labels, exclude, asked_for)
        chosen = choose_classes(class_labels, exclude=out, label_map=label_map)
        groups = [name for name in named if (key := keys[name]) is not None and key.index == NO_INDEX]
        chosen += choose_classes(class_labels, groups, exclude=exclude, label_map=label_map)
    else:
        wanted: Any = named if labels is None else labels
        chosen = choose_classes(class_labels, wanted, exclude=exclude, label_map=label_map)
    settings_of = {fold(str(name)): settings for name, settings in by_class.items()}
    by_choice: dict[ClassChoice, dict[str, Any]] = {}
    places: dict[ClassChoice, str] = {}
    for name, key in keys.items():
        if key is not None:
            by_choice[key] = by_class[name]
            place = getattr(name, "place", "")  # line of a file, where a class must not appear twice
            if places.setdefault(key, place) != place and place:
                raise UsageError(f"{place}: {str(name)!r} appears twice (first: {places[key]})")
    found = []
    for choice in dict.fromkeys(chosen):
        # Settings under its (mapped) name, else of the class or group itself, else of the classes in it.
        settings = settings_of.get(fold(choice.label)) or by_choice.get(choice)
        if settings is None and choice.index == NO_INDEX:
            settings = _lowest([each for key, each in by_choice.items() if set(key.indices) <= set(choice.indices)])
        settings = (others or {}) | (settings or {})
        if "threshold" not in settings:
            raise OptionError(option, dict(thresholds), f"a threshold of {choice.label!r}, or {OTHERS!r} for all")
        found.append((choice, settings))
    return found


def _lowest(several: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings with the lowest threshold."""
    return min(several, key=lambda settings: settings.get("threshold", math.inf), default={})


def _without_silence(class_labels: Sequence[str], exclude: Any, named: list[ClassChoice]) -> Any:
    silence = [index for index, label in enumerate(class_labels) if label.casefold() == SILENCE.casefold()]
    silence = [index for index in silence if not any(index in choice.indices for choice in named)]
    if not silence:
        return exclude
    return [*([exclude] if isinstance(exclude, str) else exclude or []), *silence]


def _settings_of(shown: str, name: Any, value: Any) -> dict[str, Any]:
    settings = dict(value) if isinstance(value, Mapping) else {"threshold": value}
    if unknown := settings.keys() - set(SETTINGS):
        raise OptionError(shown, sorted(map(str, unknown))[0], f"one of {', '.join(SETTINGS)}")
    for option, setting in settings.items():
        check_setting(option, setting, shown if option == "threshold" else f"{shown}[{option!r}]")
    threshold, off_threshold = settings.get("threshold"), settings.get("off_threshold")
    if threshold is not None and off_threshold is not None and off_threshold > threshold:
        wanted = f"at most the threshold, which is {threshold:g}"
        if place := getattr(name, "place", ""):
            raise UsageError(f"{place}, off_threshold: expected {wanted}, found {off_threshold:g}")
        raise OptionError(f"{shown}['off_threshold']", off_threshold, wanted)
    return settings


def check_setting(option: str, value: Any, shown: str) -> None:
    """Checks an attribute of [`Rule`]; `shown` is its name in the error."""
    if option == "smoothing":
        if value not in SMOOTHINGS:
            raise OptionError(shown, value, " or ".join(SMOOTHINGS))
    elif value is None and option in ("off_threshold", "max_duration_s"):
        return
    elif option in ("threshold", "off_threshold"):
        check_number(shown, value)
    else:
        check_number(shown, value, 0)
        if option == "max_duration_s" and value < MIN_PIECE_S:
            raise OptionError(shown, value, f"at least {MIN_PIECE_S:g} seconds")
        if option == "smooth_s" and value > MAX_SMOOTH_S:
            raise OptionError(shown, value, f"at most {MAX_SMOOTH_S:g} seconds")


def check_thresholds(option: str, thresholds: float | Mapping[str, Any]) -> None:
    """
    Checks that probabilities can reach the thresholds, a number or by class as for [`Timeline.events`].

    Raises:
        OptionError, UsageError: for one below 0 or above 1; the message has `option` and the class, or the line of a
            file.
    """
    expected = "a score from 0 to 1"
    if not isinstance(thresholds, Mapping):
        if not 0 <= thresholds <= 1:
            raise OptionError(option, thresholds, expected)
        return
    for name, value in thresholds.items():
        score = value.get("threshold", THRESHOLD) if isinstance(value, Mapping) else value
        if not 0 <= score <= 1:
            if place := getattr(name, "place", ""):  # line of a file
                raise UsageError(f"{place}, threshold: expected {expected}, found {score:g}")
            raise OptionError(f"{option}[{name!r}]", score, expected)


# Finding


def find_events(scores: np.ndarray, segments: np.ndarray, hop_s: float, rules: Sequence[Rule]) -> list[Event]:
    """
    Finds when each class or group occurs.

    Args:
        scores: float32 of shape `(windows, classes)`.
        segments: The part of the recording that each window represents, in seconds, of shape `(windows, 2)`.
        hop_s: Distance between window starts in seconds.
        rules: The classes and groups to find.

    Returns:
        Events ordered by onset, then by offset and label.
    """
    events: list[Event] = []
    for rule in rules:
        column = choice_scores(scores, [rule.choice])[:, 0]
        if (column >= rule.threshold).any():  # smoothing does not raise the maximum
            column = smoothed(column, smoothing_windows(rule.smooth_s, hop_s), rule.smoothing)
            events += class_events(column, segments, rule)
    return sorted(events, key=lambda event: (event.onset_s, event.offset_s, event.label))


def smoothing_windows(smooth_s: float, hop_s: float) -> int:
    """Number of windows to smooth over: the smallest odd number whose hops are at least `smooth_s` long."""
    return math.ceil(max(smooth_s / hop_s - ROUNDING_S, 1)) // 2 * 2 + 1 if smooth_s > hop_s else 1


def smoothed(scores: np.ndarray, windows: int, how: str) -> np.ndarray:
    """Running median or mean of scores `(windows, …)` over an odd number of windows, with repeated edges."""
    if windows == 1:
        return scores
    padded = np.pad(scores, [(windows // 2, windows // 2)] + [(0, 0)] * (scores.ndim - 1), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, windows, axis=0)
    middle = np.median if how == "median" else np.mean
    rows = max(1, BLOCK // (windows * scores[:1].size))
    blocks = [middle(around[start : start + rows], axis=-1) for start in range(0, len(scores), rows)]
    return np.concatenate(blocks).astype(np.float32)


def class_events(scores: np.ndarray, segments: np.ndarray, rule: Rule) -> list[Event]:
    """The events of one class or group from its smoothed scores of shape `(windows,)`."""
    active = is_active(scores, rule.threshold, rule.off_threshold)
    events = []
    for first, last in _runs(active, segments, rule.merge_gap_s):
        inside = slice(first, last + 1)
        onset_s, offset_s = float(segments[first, 0]), float(segments[last, 1])
        events += events_within(onset_s, offset_s, scores[inside], segments[inside], rule)
    return events


def events_within(onset_s: float, offset_s: float, scores: np.ndarray, segments: np.ndarray, rule: Rule) -> list[Event]:
    """
    Applies the duration limits of a rule to an event: returns it, the pieces of it, or nothing. `scores` and `segments`
    are those of its windows.
    """
    if offset_s - onset_s < rule.min_duration_s - ROUNDING_S:
        return []
    events = []
    for start_s, end_s in _pieces(onset_s, offset_s, rule.max_duration_s):
        inside = (segments[:, 0] < end_s) & (segments[:, 1] > start_s)
        events.append(Event(float(start_s), float(end_s), rule.choice.label, float(scores[inside].max())))
    return events


def is_active(scores: np.ndarray, threshold: float, off_threshold: float | None) -> np.ndarray:
    """Mask of the windows in which a class is present: from a score ≥ `threshold` until one < `off_threshold`."""
    if off_threshold is None or off_threshold >= threshold:
        return scores >= threshold
    begins = scores >= threshold
    last_change = np.maximum.accumulate(np.where(begins | (scores < off_threshold), np.arange(len(scores)), -1))
    return (last_change >= 0) & begins[last_change]


def _pieces(onset_s: float, offset_s: float, max_duration_s: float | None) -> list[tuple[float, float]]:
    if max_duration_s is None or offset_s - onset_s <= max_duration_s + ROUNDING_S:
        return [(onset_s, offset_s)]
    number = math.ceil((offset_s - onset_s - ROUNDING_S) / max_duration_s)
    borders = [*(onset_s + index * max_duration_s for index in range(number)), offset_s]
    return list(zip(borders[:-1], borders[1:], strict=True))


def _runs(active: np.ndarray, segments: np.ndarray, merge_gap_s: float) -> list[list[int]]:
    """First and last index of each run of True in `active`; runs with a gap of at most `merge_gap_s` are merged."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    runs: list[list[int]] = []
    for first, after in edges.reshape(-1, 2).tolist():
        if runs and segments[first, 0] - segments[runs[-1][1], 1] <= merge_gap_s + ROUNDING_S:
            runs[-1][1] = after - 1
        else:
            runs.append([first, after - 1])
    return runs
