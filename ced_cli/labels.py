# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced labels`: the classes of AudioSet."""

import difflib
from collections.abc import Sequence

from .errors import FAILED, CliError
from .light import load_module

Row = tuple[int, str, str]  # index, machine id, name


def show_labels(query: str) -> None:
    """Prints the classes that `query` finds as lines of index, machine id and name; all of them if it is empty."""
    rows = [(index, mid, name) for index, (mid, name) in enumerate(load_module("audioset").AUDIOSET_CLASSES)]
    found = find_rows(rows, query)
    if not found:
        raise CliError(f"no class is like {query!r}; `ced labels` shows all {len(rows)}", FAILED)
    width = max(len(mid) for _, mid, _ in rows)
    for index, mid, name in found:
        print(f"{index:3}  {mid:{width}}  {name}")


def find_rows(rows: Sequence[Row], query: str) -> list[Row]:
    """Rows whose name contains `query`, or whose index or machine id it is; else those with a similar name."""
    wanted = " ".join(query.lower().split())
    found = [row for row in rows if wanted in row[2].lower() or wanted in (str(row[0]), row[1])]
    return found or [row for row in rows if _is_similar(row[2].lower(), wanted)]


def _is_similar(name: str, wanted: str) -> bool:
    """Whether the name, a part of it between commas or a word of it is nearly the same."""
    candidates = [name, *map(str.strip, name.split(",")), *name.replace(",", " ").split()]
    return bool(difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.75))
