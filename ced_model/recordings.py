# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The recordings of `resources/`: to try the demo with, and to verify exports on."""

import sysconfig
from pathlib import Path

FOLDERS = (
    Path(__file__).parents[1] / "resources",  # of a checkout
    Path(sysconfig.get_path("data")) / "share" / "ced_model" / "resources",  # of an installed package
)
NAMES = {
    "misc_crow.flac": "crow",
    "perc_bell.flac": "bell",
    "guit_e_slide.flac": "guitar",
    "loop_tabla.flac": "tabla",
    "perc_snap.flac": "finger snap",
    "misc_burp.flac": "burp",
}


def find_recordings() -> dict[str, Path]:
    """What is heard in each recording, and its path; nothing where they are not on the machine."""
    for folder in FOLDERS:
        found = {sound: folder / file for file, sound in NAMES.items() if (folder / file).is_file()}
        if found:
            return found
    return {}
