# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder of an export: it is there whole, or not at all. Imports nothing heavy."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    if not _is_export(path):
        raise FileExistsError(f"{output}: a folder with other files in it; give a new one")
    if not overwrite:
        raise FileExistsError(f"{output}: has an export already; overwrite it or give a new folder")
    return path


def _is_export(folder: Path) -> bool:
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and metadata.get("model_type") == "ced" and "format" in metadata


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its place at the end; if anything goes wrong, it is removed."""
    folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        _replace(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, output: Path) -> None:
    """Puts `folder` in the place of `output`, which is empty, an older export or nothing."""
    if not output.exists() or not any(output.iterdir()):
        os.replace(folder, output)
        return
    old = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.old."))
    os.replace(output, old)
    try:
        os.replace(folder, output)
    except BaseException:
        os.replace(old, output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
