# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Inputs → entries of an [`Unfinished`] output, with progress, and failed ones named on stderr."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .progress import RunProgress
from .terminal import say, say_error

if TYPE_CHECKING:
    from ..input_list import Input
    from ..unfinished import Entry, Unfinished


def add_entries(
    inputs: "list[Input]",
    compute: Callable[..., Any],
    options: dict[str, Any],
    make_entry: Callable[[str, Any], "Entry"],
    unfinished: "Unfinished",
) -> RunProgress:
    """
    Adds an entry for each input that has none.

    Args:
        compute: A method of `AudioTagger` that yields a result for each input, with its `error`.
        options: Its keyword arguments.
        make_entry: The entry of an input's name and result.
    """
    waiting = [item for item in inputs if item.name not in unfinished]
    if len(waiting) < len(inputs):
        say(f"{len(inputs) - len(waiting)} of {len(inputs)} inputs were done before")
    length_s = None
    if len(waiting) == 1 and waiting[0].error is None and sys.stderr.isatty():
        from ..audio import duration_s

        length_s = duration_s(waiting[0].source)
    with RunProgress(len(waiting), length_s) as progress, ExitStack() as stack:
        sources = (item.source for item in waiting if item.error is None)
        results = compute(sources, on_audio=progress.add_audio, **options)
        stack.callback(results.close)  # its threads end, however this does
        try:
            for item in waiting:
                result = next(results) if item.error is None else None
                error = result.error if result is not None else item.error
                progress.count(failed=error is not None)
                if error is None:
                    unfinished.add(make_entry(item.name, result))
                    continue
                with progress.hidden():
                    say_error(item.name, str(error).removeprefix(f"{item.name}: "))
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(unfinished.advice) from error
    return progress
