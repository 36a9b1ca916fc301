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
    """Those of `labels`, `exclude` and `label_map` that were given."""
    if label_map is None:
        return options.given(labels=labels or None, exclude=exclude or None)
    from ..class_files import read_label_map

    return options.given(labels=labels or None, exclude=exclude or None) | {"label_map": read_label_map(label_map)}


def parse_limits(
    given: Sequence[str] | None, file: str | None, labels: Sequence[str] | None, events: bool
) -> dict[str, Any]:
    """
    The argument `thresholds` or `threshold` of the library. `--threshold` has precedence over `--thresholds`.

    Args:
        given: Values of `--threshold`: scores, or CLASS=SCORE.
        file: The value of `--thresholds`.
        labels: Values of `--labels`.
        events: For events (`thresholds`, required for each class) instead of tags (`threshold`).

    Raises:
        OptionError: if a value of `--threshold` is malformed.
        UsageError: if the file is malformed.
    """
    if events:
        limits = _thresholds(given, file, EVENT_THRESHOLD if labels else None)
        return {"thresholds": EVENT_THRESHOLD if limits is None else limits}
    return options.given(threshold=_thresholds(given, file, 0.0 if labels and (given or file) else None))


def _thresholds(given: Sequence[str] | None, file: str | None, others: float | None) -> Any:
    """A number, or thresholds by class; `others` is the default for classes without one."""
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
