# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options about classes and thresholds → keyword arguments of the library."""

import re
from collections.abc import Sequence
from typing import Any

from ..messages import OptionError
from . import options

EVENT_THRESHOLD = 0.5
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
BY_CLASS = re.compile(r"\s*([^=]+?)\s*=\s*([^=,]+?)\s*(?:,|$)")


def choosing(
    labels: Sequence[str] | None, exclude: Sequence[str] | None, label_map: str | None = None
) -> dict[str, Any]:
    """`labels`, `exclude` and `label_map`, those that were given."""
    if label_map is None:
        return options.given(labels=labels or None, exclude=exclude or None)
    from ..class_files import read_label_map

    return options.given(labels=labels or None, exclude=exclude or None) | {"label_map": read_label_map(label_map)}


def parse_limits(
    given: Sequence[str] | None, file: str | None, labels: Sequence[str] | None, events: bool
) -> dict[str, Any]:
    """
    The thresholds of `--threshold` (of all, or CLASS=SCORE) over those of `--thresholds`: a number, or by class.

    Args:
        given: Values of `--threshold`.
        file: The value of `--thresholds`.
        labels: Classes that are asked for.
        events: Whether they are for events, where each class needs one (`thresholds`), or for tags (`threshold`).

    Raises:
        OptionError: for a value that is neither.
        UsageError: for a file that is not as expected.
    """
    if events:
        limits = _thresholds(given, file, EVENT_THRESHOLD if labels else None)
        return {"thresholds": EVENT_THRESHOLD if limits is None else limits}
    return options.given(threshold=_thresholds(given, file, 0.0 if labels and (given or file) else None))


def _thresholds(given: Sequence[str] | None, file: str | None, others: float | None) -> Any:
    """`others` is the threshold of all if there is none by class, else of classes that are asked for."""
    by_class: dict[str, dict[str, Any]] = {}
    if file is not None:
        from ..class_files import read_thresholds

        by_class |= read_thresholds(file)
    common = None
    for text in given or ():
        if NUMBER.fullmatch(text.strip()):
            common = float(text)
            continue
        position = 0
        while match := BY_CLASS.match(text, position):
            if not NUMBER.fullmatch(match[2]):
                break
            by_class[match[1]] = {**by_class.get(match[1], {}), "threshold": float(match[2])}
            position = match.end()
        if position < len(text) or not text.strip():
            raise OptionError("threshold", text, "a score, or CLASS=SCORE")
    if not by_class:
        return others if common is None else common
    from ..events import OTHERS

    if common is not None:
        by_class[OTHERS] = {"threshold": common}
    elif others is not None:
        by_class.setdefault(OTHERS, {"threshold": others})
    return by_class
