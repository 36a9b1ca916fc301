# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced labels`: the classes of AudioSet."""

import difflib
from collections.abc import Sequence
from typing import Annotated

import typer

from ..audioset import AUDIOSET_CLASSES
from .endings import one_line_errors
from .errors import FAILED, CliError
from .terminal import put

MIN_SIMILARITY = 0.6
MAX_SIMILAR = 10

Row = tuple[int, str, str]  # index, machine id, name


@one_line_errors
def labels(query: Annotated[list[str] | None, typer.Argument(metavar="QUERY", hidden=True)] = None) -> None:
    """Search the 527 classes of AudioSet.

    QUERY is part of a name, an index or a machine id; without it, all classes are shown. Each line has an index, a
    machine id and a name.
    """
    rows = [(index, mid, name) for index, (mid, name) in enumerate(AUDIOSET_CLASSES)]
    text = " ".join(query or [])
    found = find_rows(rows, text)
    if not found:
        raise CliError(f"no class is like {text!r}; `ced labels` shows all {len(rows)}", FAILED)
    width = max(len(mid) for _, mid, _ in rows)
    put(*(f"{index:3}  {mid:{width}}  {name}" for index, mid, name in found))


def find_rows(rows: Sequence[Row], query: str) -> list[Row]:
    """Rows with `query` in their name or as their index or machine id; else those with the most similar names."""
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
