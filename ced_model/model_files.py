# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The files of a model folder, and checks before writing one."""

import shutil
from collections.abc import Collection
from pathlib import Path

from .custom_code import CODE_FILES, MIN_TRANSFORMERS
from .output import check_writable

HUB_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
HANDLER, REQUIREMENTS = "handler.py", "requirements.txt"  # for Hugging Face Inference Endpoints
MODEL_FILES = frozenset((*HUB_FILES, *CODE_FILES, HANDLER, REQUIREMENTS, "README.md"))


def write_handler(folder: Path) -> None:
    """Writes the files for running a classifier on Hugging Face Inference Endpoints."""
    shutil.copyfile(Path(__file__).with_name("endpoint_handler.py"), folder / HANDLER)
    (folder / REQUIREMENTS).write_text(f"transformers>={MIN_TRANSFORMERS}\nsoundfile\nsoxr\n")


def check_output(folder: Path, overwrite: bool, further: Collection[str] = ()) -> None:
    """
    Raises a ValueError if writing a model to `folder` would overwrite other files, and an OSError if it cannot be
    written.

    Args:
        overwrite: Whether a model in the folder may be replaced.
        further: Names of other files that may be replaced.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} is not a folder: choose another output.")
    check_writable(folder)
    if not folder.exists():
        return
    check_replaceable(folder, further)
    if any(folder.iterdir()) and not overwrite:
        raise ValueError(f"{folder} is not empty: use `overwrite=True`, or choose another output.")


def check_replaceable(folder: Path, further: Collection[str] = ()) -> None:
    """Raises a ValueError if a folder contains other files than those of a model and `further`."""
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in {*MODEL_FILES, *further})
    if foreign:
        raise ValueError(
            f"{folder} has other files than those of a model ({', '.join(foreign[:5])}): choose another output."
        )
