# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
r"""
Names and labels in formats without quoting.

Characters that a format cannot store are written as `\xNN` for each byte in UTF-8, as in the file names of records.
Replacing each `\xNN` by its byte restores the text.
"""

import os
import re
from collections.abc import Iterable

from ..records import Record

CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
OPENING_QUOTE = '^"'  # readers of tables would parse it as the start of a quoted cell
SPACE = r"\s"


def name_field(name: str, *unsafe: str) -> str:
    """A file name of a record, in which backslashes before `xNN` are already escaped."""
    return re.sub("|".join([CONTROL, *unsafe]), lambda match: _escaped(match[0]), name)


def label_field(label: str, *unsafe: str) -> str:
    return name_field(re.sub(r"\\(?=x[0-9a-f]{2})", r"\\x5c", label), *unsafe)


def _escaped(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def local_path(name: str) -> str | None:
    """The absolute path for a file name of a record, or None for standard input and URIs."""
    return None if name == "-" or "://" in name else os.path.abspath(name)


def seconds(value: float) -> str:
    return f"{value:.6f}"


def recordings(records: Iterable[Record]) -> Iterable[Record]:
    """The records of recordings that could be read."""
    return (record for record in records if "error" not in record)
