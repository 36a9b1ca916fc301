# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of classes: finding them in a list of classes, and splitting a text with several names."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..classes import NAME_OF_MID, Vocabulary, similar_names, split_names
from ..messages import count
from .clips import SHOWN, shown
from .tables import text_of


def describe_unknown(unknown: Sequence[str], classes: Sequence[str]) -> str:
    hints = []
    for label in unknown[:SHOWN]:
        close = similar_names(label, classes, 2, 0.7)
        hints.append(repr(label) + (f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""))
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    are = "is" if len(unknown) == 1 else "are"
    return f"{', '.join(hints)}{more} {are} not among the {count(len(classes), 'class', 'es')}: {shown(classes)}."


def parse_cell(cell: Any, separator: str, vocabulary: Vocabulary | None) -> list[str]:
    """The names in a cell of the label column."""
    if isinstance(cell, (list, tuple, np.ndarray)):
        return [text for name in cell if (text := _name(name))]
    text = _name(cell)
    if not text or (vocabulary is not None and vocabulary.find(text) is not None):
        return [text] if text else []
    parts = [part.strip() for part in text.split(separator)] if separator else [text]
    return [name for part in parts if part for name in _split_commas(part, vocabulary)]


def _name(cell: Any) -> str:
    """The text of a name, with composed accents: two spellings that look the same are one class."""
    if isinstance(cell, (Mapping, list, tuple)):
        raise ValueError(f"a label must be a name or a list of names, got {shown([str(cell)])}.")
    return unicodedata.normalize("NFC", text_of(cell))


def _split_commas(text: str, vocabulary: Vocabulary | None) -> list[str]:
    """The machine ids or known classes in a text separated by commas, else the text itself."""
    pieces = [piece.strip() for piece in text.split(",")]
    if all(piece in NAME_OF_MID for piece in pieces):
        return pieces
    names = vocabulary and split_names(pieces, lambda name: vocabulary.find(name) is not None)
    return names or [text]
