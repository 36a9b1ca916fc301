# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Messages and errors on one line, with text from files and other libraries made safe to print."""

import math
import numbers
import os
import unicodedata
from collections.abc import Sequence
from typing import Any


def printable(text: Any) -> str:
    """`text` (str, bytes or path) with control characters and invalid bytes escaped."""
    if isinstance(text, str | bytes | os.PathLike):
        text = os.fsdecode(text)
    return "".join(map(_printable_character, str(text)))


def one_line(text: Any) -> str:
    """The message of an error, or any text, as one printable line."""
    return printable(" ".join(str(text).split()))


def count(number: int, noun: str, plural: str = "s") -> str:
    """1 clip, 2,000 clips"""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def listed(names: Sequence[str]) -> str:
    """a; a and b; a, b and c"""
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 2 else names)


def one_line_error(error: BaseException) -> str:
    """The message of a runtime's exception, printable and shortened."""
    return one_line(error)[:300] or type(error).__name__


def _printable_character(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # surrogateescape: a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class UsageError(ValueError):
    """Raised for invalid arguments, files and folders. The message is one line."""


class RunError(RuntimeError):
    """Raised if a run cannot start or continue. The message is one line."""


class EngineError(RunError):
    """Raised if an engine cannot compute a model. The message is one line, with the remedy."""


class OptionError(UsageError):
    """
    Raised for an invalid argument. The message is one line: "`name=value`: expected …".

    Attributes:
        name: The name of the argument in the library.
        value: Its value.
        expected: What was expected.
    """

    def __init__(self, name: str, value: Any, expected: str) -> None:
        super().__init__(f"`{name}={_shown(value)}`: expected {expected}")
        self.name, self.value, self.expected = name, value, expected

    def __reduce__(self) -> Any:
        return type(self), (self.name, self.value, self.expected)


def _shown(value: Any) -> str:
    try:
        text = one_line(repr(value))
    except (RecursionError, ValueError):  # nested too deeply, or more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"


def check_number(name: str, value: Any, minimum: float = -math.inf) -> None:
    """Raises an [`OptionError`] unless `value` is a number ≥ `minimum`."""
    try:
        is_valid = not isinstance(value, bool) and isinstance(value, numbers.Real) and float(value) >= minimum
    except OverflowError:  # an integer beyond the largest float
        is_valid = False
    if not is_valid:
        raise OptionError(name, value, "a number" if minimum == -math.inf else f"a number from {minimum:g}")


def check_count(name: str, value: Any, expected: str = "a whole number from 1") -> None:
    """Raises an [`OptionError`] unless `value` is an integer ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise OptionError(name, value, expected)


def clock(seconds: float) -> str:
    """12.3 s, 1:02.3 or 1:02:03.4."""
    minutes, rest = divmod(round(seconds * 10), 600)
    if not minutes:
        return f"{rest / 10:.1f} s"
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"
