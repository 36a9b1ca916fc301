# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder with a folder of clips for each class."""

import os
from collections.abc import Sequence

from .audio import describe
from .messages import UsageError


def classes_of(folder: str, paths: Sequence[str], *, lacking: str = "", hint: str = "") -> list[str]:
    """
    The class of each clip: the name of the folder that it is in.

    Args:
        folder: The folder that has those of the classes.
        paths: The clips in it.
        lacking: What else would have given the classes, for the message.
        hint: What to give in place of the folder, for the message.

    Raises:
        UsageError: if clips are in no folder of a class, or the folders are not equally deep.
    """
    name = describe(folder)
    by_depth: dict[int, str] = {}
    for path in paths:
        by_depth.setdefault(os.path.relpath(path, folder).count(os.sep), path)
    if 0 in by_depth:
        loose = f"{name}: {describe(by_depth[0])} is in no folder of a class{lacking}"
        raise UsageError(f"{loose}; make a folder for each class{hint}")
    if len(by_depth) > 1:
        shallow, deep = by_depth[min(by_depth)], by_depth[max(by_depth)]
        raise UsageError(
            f"{name}: the folders of the classes must all be equally deep, but there are {describe(shallow)} and"
            f" {describe(deep)}{hint}"
        )
    return [os.path.basename(os.path.dirname(path)) for path in paths]
