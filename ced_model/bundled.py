# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model in this package. The command imports this file at its start, so it imports nothing slow."""

from os import PathLike, fspath
from pathlib import Path

DEFAULT_MODEL = "ced-nano"


def bundled_folder(name: str = DEFAULT_MODEL) -> str:
    """
    The folder of a model in this package, for `from_pretrained` and `pipeline`.

    Raises:
        ValueError: if the package has no such model.
    """
    if name != DEFAULT_MODEL:
        raise ValueError(f"This package has no model {name!r}, only {DEFAULT_MODEL!r}.")
    return str(Path(__file__).parent / "checkpoints" / name)


def resolve_model(model: str | PathLike) -> str:
    """The folder of a bundled model if `model` is its name, else `model`. As for Hub ids, a local folder goes first."""
    name = fspath(model)
    return bundled_folder(name) if name == DEFAULT_MODEL and not Path(name).is_dir() else name
