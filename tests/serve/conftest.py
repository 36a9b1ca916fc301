# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Servers of `ced-nano`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from served import Served, serving

from ced_model import AudioTagger
from ced_model.serve.settings import Settings


@pytest.fixture(scope="session")
def tagger() -> AudioTagger:
    return AudioTagger(num_threads=1)


@pytest.fixture(scope="module")
def server(tagger: AudioTagger, golden: Path) -> Iterator[Served]:
    """With two models and the usual limits."""
    with serving([tagger, AudioTagger(golden / "micro_hub", num_threads=1)], Settings()) as served:
        yield served


@pytest.fixture(scope="module")
def strict(tagger: AudioTagger) -> Iterator[Served]:
    """With a key and low limits."""
    settings = Settings(
        max_megabytes=0.5,
        max_minutes=0.1,
        max_streams=1,
        body_timeout_s=0.3,
        stream_timeout_s=0.3,
        api_key="secret",
        root_path="/ced",
    )
    with serving([tagger], settings) as served:
        served.client.headers["Authorization"] = "Bearer secret"
        yield served


@pytest.fixture(scope="session")
def tabla(resources: Path) -> tuple[np.ndarray, int]:
    """10.7 s of a tabla at 44.1 kHz, float32 of shape `(samples,)`, and its sampling rate."""
    samples, rate = soundfile.read(resources / "loop_tabla.flac", dtype="float32", always_2d=True)
    return samples[:, 0].copy(), rate
