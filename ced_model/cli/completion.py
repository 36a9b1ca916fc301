# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Shell completion of models, classes and formats. The shell itself completes paths."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..audioset import AUDIOSET_CLASSES
from ..bundled import DEFAULT_MODEL

SIZES = ("tiny", "mini", "small", "base")
EXPORT_FORMATS = ("onnx", "openvino", "sherpa-onnx", "torch", "web")
SPECIAL = set(" '\"()&;|<>$`\\!*?")


def complete_model(incomplete: str) -> list[str]:
    """The bundled and published models, and model folders in the current folder or the one typed so far."""
    known = [DEFAULT_MODEL, *(f"mispeech/ced-{size}" for size in SIZES)]
    place = incomplete.rpartition("/")[0]
    try:
        folders = [entry for entry in Path(place or ".").expanduser().iterdir() if (entry / "config.json").is_file()]
    except OSError:
        folders = []
    return _matching(
        [*known, *sorted(f"{place}/{folder.name}" if place else folder.name for folder in folders)], incomplete
    )


def complete_class(incomplete: str) -> list[str]:
    """Names of AudioSet's classes for the text after the last comma."""
    before, comma, last = incomplete.rpartition(",")
    names = [name for _, name in AUDIOSET_CLASSES if name.startswith(last)]
    return [_quoted(f"{before}{comma}{name}") for name in names]


def complete_size(incomplete: str) -> list[str]:
    return _matching(SIZES, incomplete)


def complete_export_format(incomplete: str) -> list[str]:
    return _matching(EXPORT_FORMATS, incomplete)


def complete_engine(incomplete: str) -> list[str]:
    return _matching(("auto", "onnx", "openvino", "torch"), incomplete)


def _matching(values: Iterable[str], incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]


def _quoted(name: str) -> str:
    """Quotes a name for bash, which inserts completions unchanged; other shells quote them."""
    if os.environ.get("_CED_COMPLETE") != "complete_bash":
        return name
    return "".join(f"\\{character}" if character in SPECIAL else character for character in name)
