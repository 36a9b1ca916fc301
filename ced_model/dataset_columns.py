# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The audio column of 🤗 datasets and pandas tables, without decoding it (which would require torchcodec)."""

from collections.abc import Iterator, Sequence
from typing import Any

from .audio_inputs import is_single_input
from .messages import OptionError


class StreamedColumn:
    """The values of a column of an `IterableDataset`."""

    def __init__(self, dataset: Any, key: str) -> None:
        self.dataset, self.key = dataset, key

    def __iter__(self) -> Iterator[Any]:
        return (row[self.key] for row in self.dataset)


class Column(StreamedColumn, Sequence):
    """The values of a column of a `Dataset`."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index][self.key]


def audio_column(inputs: Any) -> Any:
    """
    The audio of a dataset, of one of its columns (also a `KeyDataset`), or of a column of pandas. Other inputs are
    returned unchanged.

    Raises:
        OptionError: for a dataset with several audio columns, or without the given column.
    """
    if is_single_input(inputs):
        return inputs
    if hasattr(inputs, "iloc"):  # pandas
        if inputs.ndim != 1:
            raise OptionError("inputs", type(inputs).__name__, 'one column of it, such as table["path"]')
        return inputs.tolist()
    if type(inputs).__name__ == "KeyDataset":  # of transformers
        dataset, key = inputs.dataset, inputs.key
    elif hasattr(inputs, "column_name") and hasattr(inputs, "source"):
        dataset, key = inputs.source, inputs.column_name
    elif hasattr(inputs, "features") and hasattr(inputs, "cast_column"):
        columns = [name for name, feature in (inputs.features or {}).items() if type(feature).__name__ == "Audio"]
        if not columns:
            return inputs
        if len(columns) > 1:
            wanted = f"a dataset with one audio column, not {', '.join(columns)}: use select_columns(name)"
            raise OptionError("inputs", type(inputs).__name__, wanted)
        dataset, key = inputs, columns[0]
    else:
        return inputs
    features: Any = getattr(dataset, "features", None)
    if not features or not hasattr(dataset, "select_columns"):
        return inputs
    if key not in features:
        raise OptionError("inputs", key, f"a column of the dataset: {', '.join(map(str, features))}")
    column = dataset.select_columns([key])  # other columns would be decoded
    if type(features[key]).__name__ == "Audio":
        column = column.cast_column(key, type(features[key])(decode=False))
    return Column(column, key) if hasattr(column, "__len__") else StreamedColumn(column, key)
