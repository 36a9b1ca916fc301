# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The recordings in `resources/`, for the demo and the verification of exports."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

CHECKOUT = Path(__file__).parents[1] / "resources"
NAMES = {
    "dog.ogg": "dog",
    "thunder.ogg": "thunder",
    "stream.ogg": "stream",
    "glass.ogg": "glass",
    "car.ogg": "car",
    "misc_crow.flac": "crow",
    "perc_bell.flac": "bell",
    "guit_e_slide.flac": "guitar",
    "loop_tabla.flac": "tabla",
    "perc_snap.flac": "finger snap",
}


def find_recordings() -> dict[str, Path]:
    """Paths of the recordings by the name of the sound; empty if they are not installed."""
    found = {sound: CHECKOUT / name for name, sound in NAMES.items() if (CHECKOUT / name).is_file()}
    return found or _installed()


def _installed() -> dict[str, Path]:
    """The recordings that were installed by pip (also with `--user`, `--target`, …)."""
    try:
        listed = files("ced_model") or []
    except PackageNotFoundError:
        return {}
    paths = {file.name: Path(file.locate()).resolve() for file in listed if file.parent.name == "resources"}
    return {sound: paths[name] for name, sound in NAMES.items() if name in paths and paths[name].is_file()}
