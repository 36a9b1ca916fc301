# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of noise with some broken files."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile


def fill_folder(folder: Path, count: int, broken: Iterable[int], samples: tuple[int, int]) -> Path:
    """Writes `count` files of noise at 16 kHz with random lengths; those in `broken` are not audio."""
    rng, digits = np.random.default_rng(0), len(str(count))
    for index in range(count):
        noise = rng.normal(scale=0.1, size=int(rng.integers(*samples)))
        soundfile.write(folder / f"{index:0{digits}}.wav", noise, 16000)
    for index in broken:
        (folder / f"{index:0{digits}}.wav").write_bytes(b"RIFF")
    return folder
