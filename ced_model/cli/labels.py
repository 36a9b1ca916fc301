# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced labels`: the classes of AudioSet."""

import difflib
from collections.abc import Sequence

from ..audioset import AUDIOSET_CLASSES
from .errors import FAILED, CliError
from .terminal import put

MIN_SIMILARITY = 0.6
MAX_SIMILAR = 10

Row = tuple[int, str, str]  # index, machine id, name


def show_labels(query: str) -> None:
    """Prints the classes that `query` finds as lines of index, machine id and name; all of them if it is empty."""
    rows = [(index, mid, name) for index, (mid, name) in enumerate(AUDIOSET_CLASSES)]
    found = find_rows(rows, query)
    if not found:
        raise CliError(f"no class is like {query!r}; `ced labels` shows all {len(rows)}", FAILED)
    width = max(len(mid) for _, mid, _ in rows)
    put(*(f"{index:3}  {mid:{width}}  {name}" for index, mid, name in found))


def find_rows(rows: Sequence[Row], query: str) -> list[Row]:
    """Rows whose name contains `query`, or whose index or machine id it is; else those with the most similar names."""
    wanted = " ".join(query.lower().split())
    found = [row for row in rows if wanted in row[2].lower() or wanted in (str(row[0]), row[1])]
    if found:
        return found
    similarities = [_similarity(row[2].lower(), wanted) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: -similarities[index])
    return [rows[index] for index in order[:MAX_SIMILAR] if similarities[index] >= MIN_SIMILARITY]


def _similarity(name: str, wanted: str) -> float:
    """From 0 to 1, of the whole name, a part of it between commas or a word of it."""
    candidates = {name, *map(str.strip, name.split(",")), *name.replace(",", " ").split()}
    return max(difflib.SequenceMatcher(None, candidate, wanted).ratio() for candidate in candidates)
