# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of clips with one subfolder per class."""

import os
from collections.abc import Sequence

from .audio import describe
from .messages import UsageError


def classes_of(folder: str, paths: Sequence[str], *, lacking: str = "", hint: str = "") -> list[str]:
    """
    The class of each clip: the name of its folder.

    Args:
        folder: The folder with the class folders.
        paths: The clips in it.
        lacking: Other sources of classes that are missing, for the error message.
        hint: What to use instead of the folder, for the error message.

    Raises:
        UsageError: if a clip is not in a class folder, or class folders are at different depths.
    """
    name = describe(folder)
    by_depth: dict[int, str] = {}
    for path in paths:
        by_depth.setdefault(os.path.relpath(path, folder).count(os.sep), path)
    if 0 in by_depth:
        loose = f"{name}: {describe(by_depth[0])} is not in a class folder{lacking}"
        raise UsageError(f"{loose}; make a folder for each class{hint}")
    if len(by_depth) > 1:
        shallow, deep = by_depth[min(by_depth)], by_depth[max(by_depth)]
        raise UsageError(
            f"{name}: the folders of the classes must all be equally deep, but there are {describe(shallow)} and"
            f" {describe(deep)}{hint}"
        )
    return [os.path.basename(os.path.dirname(path)) for path in paths]
