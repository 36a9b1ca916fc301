# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The recordings of `resources/`: to try the demo with, and to verify exports on."""

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
    """The sound in each recording → its path; empty where they are not on the machine."""
    found = {sound: CHECKOUT / name for name, sound in NAMES.items() if (CHECKOUT / name).is_file()}
    return found or _installed()


def _installed() -> dict[str, Path]:
    """Those that pip installed, wherever it put them (`--user`, `--target`, …)."""
    try:
        listed = files("ced_model") or []
    except PackageNotFoundError:
        return {}
    paths = {file.name: Path(file.locate()).resolve() for file in listed if file.parent.name == "resources"}
    return {sound: paths[name] for name, sound in NAMES.items() if name in paths and paths[name].is_file()}
