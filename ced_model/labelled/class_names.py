# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of classes: found in a list of classes, and taken apart where a text has several."""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..audioset import AUDIOSET_CLASSES
from .clips import SHOWN, count, shown
from .tables import text_of

NAME_OF_MID = dict(AUDIOSET_CLASSES)


def match_labels(labels: Sequence[str], classes: Sequence[str]) -> list[int]:
    """
    The index of each label in `classes`: by its name, upper or lower case, with `_` for a space, or machine id.

    Raises:
        ValueError: in one line, if some are none of them; similar ones are named.
    """
    vocabulary = Vocabulary(classes)
    found = [vocabulary.find(label) for label in labels]
    unknown = [label for label, index in zip(labels, found, strict=True) if index is None]
    if unknown:
        raise ValueError(describe_unknown(unknown, classes))
    return [index for index in found if index is not None]


class Vocabulary:
    """Finds classes by name."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.most_pieces = 1 + max((name.count(",") for name in classes), default=0)
        self._exact = {name: index for index, name in enumerate(classes)}
        self._folded: dict[str, int | None] = {}
        for index, name in enumerate(classes):
            folded = _folded(name)
            self._folded[folded] = None if folded in self._folded else index  # None: ambiguous

    def find(self, name: str) -> int | None:
        for candidate in (name, NAME_OF_MID.get(name, name)):
            index = self._exact.get(candidate)
            if index is None:
                index = self._folded.get(_folded(candidate))
            if index is not None:
                return index
        return None


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def describe_unknown(unknown: Sequence[str], classes: Sequence[str]) -> str:
    names = {_folded(name): name for name in classes}
    hints = []
    for label in unknown[:SHOWN]:
        close = [names[match] for match in difflib.get_close_matches(_folded(label), names, n=2, cutoff=0.7)]
        hints.append(repr(label) + (f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""))
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    are = "is" if len(unknown) == 1 else "are"
    return f"{', '.join(hints)}{more} {are} not among the {count(len(classes), 'class', 'es')}: {shown(classes)}."


def parse_cell(cell: Any, separator: str, vocabulary: Vocabulary | None) -> list[str]:
    """The names in a cell of the label column."""
    if isinstance(cell, (list, tuple, np.ndarray)):
        return [text for name in cell if (text := text_of(name))]
    text = text_of(cell)
    if not text or (vocabulary is not None and vocabulary.find(text) is not None):
        return [text] if text else []
    parts = [part.strip() for part in text.split(separator)] if separator else [text]
    return [name for part in parts if part for name in _split_commas(part, vocabulary)]


def _split_commas(text: str, vocabulary: Vocabulary | None) -> list[str]:
    """The machine ids or known classes that a text consists of; else the text itself."""
    pieces = [piece.strip() for piece in text.split(",")]
    if all(piece in NAME_OF_MID for piece in pieces):
        return pieces
    return (vocabulary and _known_sequence(pieces, vocabulary)) or [text]


def _known_sequence(pieces: list[str], vocabulary: Vocabulary) -> list[str] | None:
    """Known names, the first ones as long as can be, that make up `pieces`, which were separated by commas."""
    rests: list[list[str] | None] = [None] * len(pieces) + [[]]  # the names from each piece on
    for start in reversed(range(len(pieces))):
        for end in range(start + 1, min(start + vocabulary.most_pieces, len(pieces)) + 1):
            name, rest = ", ".join(pieces[start:end]), rests[end]
            if rest is not None and vocabulary.find(name) is not None:
                rests[start] = [name, *rest]  # a longer one, if there is any, comes later
    return rests[0]
