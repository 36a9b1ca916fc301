# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Text from files, models, archives and other libraries → text that is safe to print on one line."""

import os
import unicodedata
from typing import Any


def printable(text: Any) -> str:
    """`text` (str, bytes or path) with control characters, escape sequences and bytes that are not text escaped."""
    if isinstance(text, str | bytes | os.PathLike):
        text = os.fsdecode(text)
    return "".join(map(_printable_character, str(text)))


def one_line(text: Any) -> str:
    """The message of an error, or any text, as one printable line."""
    return printable(" ".join(str(text).split()))


def _printable_character(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # surrogateescape: a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
