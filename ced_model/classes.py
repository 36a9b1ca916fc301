# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Classes of a model by their names."""

import difflib
from collections.abc import Sequence

from .messages import OptionError, printable


def find_label(labels: Sequence[str], name: str) -> int:
    """
    The index of the class `name`, upper or lower case.

    Raises:
        OptionError: if there is no such class; it names similar ones.
    """
    if not isinstance(name, str):
        raise OptionError("labels", name, "names of classes")
    lowered = [label.lower() for label in labels]
    if name.lower() in lowered:
        return lowered.index(name.lower())
    close = [labels[lowered.index(match)] for match in difflib.get_close_matches(name.lower(), lowered, n=3)]
    close += [label for label in labels if name.lower() in label.lower() and label not in close][:3]
    hint = f"; did you mean {', '.join(repr(printable(label)) for label in close)}?" if close else ""
    raise OptionError("labels", name, f"a class of the model{hint}")
