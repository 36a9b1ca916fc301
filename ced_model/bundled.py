# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that comes with the package. The command looks here, too: nothing is imported that takes time."""

from os import PathLike, fspath
from pathlib import Path

DEFAULT_MODEL = "ced-nano"


def bundled_folder(name: str = DEFAULT_MODEL) -> str:
    """
    The folder of a model that is a part of this package, for `from_pretrained` and `pipeline`.

    Raises:
        ValueError: if there is no such model in it.
    """
    if name != DEFAULT_MODEL:
        raise ValueError(f"No model {name!r} comes with this package, only {DEFAULT_MODEL!r}.")
    return str(Path(__file__).parent / "checkpoints" / name)


def resolve_model(model: str | PathLike) -> str:
    """`model`, or the folder of a bundled one if that is its name. A folder of that name goes first, as on the Hub."""
    name = fspath(model)
    return bundled_folder(name) if name == DEFAULT_MODEL and not Path(name).is_dir() else name
