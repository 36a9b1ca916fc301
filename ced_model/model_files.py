# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The files of a model folder, and whether a model may be written to a folder."""

import shutil
from collections.abc import Collection
from pathlib import Path

from .custom_code import CODE_FILES, MIN_TRANSFORMERS

HUB_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
HANDLER, REQUIREMENTS = "handler.py", "requirements.txt"  # for Hugging Face Inference Endpoints
MODEL_FILES = frozenset((*HUB_FILES, *CODE_FILES, HANDLER, REQUIREMENTS, "README.md"))


def write_handler(folder: Path) -> None:
    """Writes what Hugging Face Inference Endpoints need to run a classifier."""
    shutil.copyfile(Path(__file__).with_name("endpoint_handler.py"), folder / HANDLER)
    (folder / REQUIREMENTS).write_text(f"transformers>={MIN_TRANSFORMERS}\nsoundfile\nsoxr\n")


def check_output(folder: Path, overwrite: bool, further: Collection[str] = ()) -> None:
    """
    Raises a ValueError if writing a model to `folder` would harm what is there.

    Args:
        overwrite: Whether a model in it may be replaced.
        further: Names that may be beside the model's own files.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} is not a folder: choose another output.")
    if not folder.exists():
        return
    check_replaceable(folder, further)
    if any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} is not empty: overwrite it, or choose another output.")


def check_replaceable(folder: Path, further: Collection[str] = ()) -> None:
    """Raises a ValueError if a folder holds anything but a model and what is named in `further`."""
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in {*MODEL_FILES, *further})
    if foreign:
        raise ValueError(
            f"{folder} holds more than a model ({', '.join(foreign[:5])}) and is kept: choose another output."
        )
