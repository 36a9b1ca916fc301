# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder of an export: what may be replaced by one. Imports nothing heavy."""

import json
import os
from pathlib import Path

METADATA_FILE = "metadata.json"


def check_output(output: str | Path, overwrite: bool = False) -> Path:
    """
    The folder to make, links resolved.

    Raises:
        FileExistsError: if there is something that may not be replaced: anything but an empty folder or, with
            `overwrite`, another export.
        FileNotFoundError: if the folder that it would be in does not exist.
    """
    path = Path(os.path.realpath(Path(output).expanduser()))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {str(path.parent)!r} to put it in")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return path
    if not path.is_dir():
        raise FileExistsError(f"{output}: a file; give a folder")
    check_export(path)
    if not overwrite:
        raise FileExistsError(f"{output}: has an export already; overwrite it or give a new folder")
    return path


def check_export(folder: Path) -> None:
    """Raises FileExistsError if a folder is not an export."""
    if not _is_export(folder):
        raise FileExistsError(f"{folder}: a folder with other files in it; give a new one")


def _is_export(folder: Path) -> bool:
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and metadata.get("model_type") == "ced" and "format" in metadata
