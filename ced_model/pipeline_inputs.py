# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts inputs of the pipeline (files, URLs, arrays, rows of `datasets`) to inputs of `read_blocks`."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from huggingface_hub.utils import get_session

from .audio_chunks import AudioError
from .audio_inputs import is_single_input, plain_input
from .messages import one_line_error, printable

INPUTS = (
    'a path, a URL, bytes, an array, {"array": …, "sampling_rate": …}, the audio column of a `datasets` row, or a list,'
    " generator or dataset of these"
)


def is_single(inputs: Any) -> bool:
    """Whether it is one input. Objects that are not iterable count as one, too, and are refused later."""
    return is_single_input(inputs) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__"))


def rows_of(inputs: Any) -> tuple[Iterable[Any], Callable[[Any], Any]]:
    """
    Returns an iterable, and a function that gets an input from each of its items.

    Rows of a dataset are loaded only when they are read, so that a row that cannot be loaded is an error of this input
    only.
    """
    if not hasattr(inputs, "__getitem__") or not hasattr(inputs, "__len__"):
        return inputs, lambda row: row
    lock = threading.Lock()

    def take(index: int) -> Any:
        with lock:
            return inputs[index]

    return range(len(inputs)), take


def to_input(row: Any) -> Any:
    """Converts an input of the pipeline to one of [`read_blocks`]."""
    source = plain_input(row)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _download(source)
    if not is_single_input(source):
        raise AudioError(f"got {type(row).__name__}: expected {INPUTS}")
    return source


def _download(url: str) -> bytes:
    try:
        response = get_session().get(url, follow_redirects=True)
        response.raise_for_status()
        return response.content
    except Exception as error:
        raise AudioError(f"{printable(url)}: cannot be downloaded: {one_line_error(error)}") from error
