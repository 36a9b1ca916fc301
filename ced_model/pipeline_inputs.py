# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What users pass to a pipeline: files, URLs, arrays, rows and columns of `datasets` → inputs of `read_blocks`."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from huggingface_hub.utils import get_session
from transformers.pipelines.pt_utils import KeyDataset

from .audio import AudioError, is_single_input, plain_input
from .messages import OptionError, one_line_error, printable

INPUTS = (
    'a path, a URL, bytes, an array, {"array": …, "sampling_rate": …}, the audio column of a `datasets` row, or a list,'
    " generator or dataset of these"
)


def is_single(inputs: Any) -> bool:
    """Whether it is one input; what cannot be iterated over is one, too, and is refused as such."""
    return is_single_input(inputs) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__"))


def audio_column(inputs: Any) -> Any:
    """The audio column of a dataset of `datasets`, not decoded, which would need torchcodec; others as given."""
    dataset: Any
    if hasattr(inputs, "iloc"):  # of pandas, whose index may be anything
        if inputs.ndim != 1:
            raise OptionError("inputs", type(inputs).__name__, 'one column of it, such as table["path"]')
        return inputs.tolist()
    if isinstance(inputs, KeyDataset):
        dataset, key = inputs.dataset, inputs.key
    elif hasattr(inputs, "column_name") and hasattr(inputs, "source"):
        dataset, key = inputs.source, inputs.column_name
    elif hasattr(inputs, "features") and hasattr(inputs, "cast_column"):
        columns = [name for name, feature in (inputs.features or {}).items() if type(feature).__name__ == "Audio"]
        if len(columns) != 1:
            wanted = (
                'a dataset with one audio column; here, pass `(row["audio"] for row in dataset)`, by the column\'s name'
            )
            raise OptionError("inputs", type(inputs).__name__, wanted)
        dataset, key = inputs, columns[0]
    else:
        return inputs
    features: Any = getattr(dataset, "features", None)
    if not features or not hasattr(dataset, "select_columns"):
        return inputs
    if key not in features:
        raise OptionError("inputs", key, f"a column of the dataset: {', '.join(map(str, features))}")
    column: Any = dataset.select_columns([key])  # without those that would be decoded
    if type(features[key]).__name__ == "Audio":
        column = column.cast_column(key, type(features[key])(decode=False))
    return KeyDataset(column, key) if hasattr(column, "__len__") else (row[key] for row in column)


def rows_of(inputs: Any) -> tuple[Iterable[Any], Callable[[Any], Any]]:
    """
    What to iterate over, and how to get an input from it.

    Rows of a dataset are taken where they are read, so that one which cannot be taken is the error of that row only.
    """
    if not hasattr(inputs, "__getitem__") or not hasattr(inputs, "__len__"):
        return inputs, lambda row: row
    lock = threading.Lock()

    def take(index: int) -> Any:
        with lock:
            return inputs[index]

    return range(len(inputs)), take


def to_input(row: Any) -> Any:
    """An input of the pipeline as one of [`read_blocks`]."""
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
