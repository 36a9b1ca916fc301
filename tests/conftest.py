# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, settings
from torch.utils.data._utils import signal_handling

from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification

# No deadline: the cost of examples varies (the first one compiles or fills caches).
settings.register_profile("ced", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("ced")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Micro models are not faster with more threads, but ten times slower if other processes use the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_handler_of_ended_processes() -> None:
    """
    Keeps `DataLoader` from installing a handler of SIGCHLD in this process.

    It remains installed after the loader, and uses an alternate signal stack that one of the native libraries in this
    process has released: the end of the next child process would cause a segmentation fault.
    """
    signal_handling._SIGCHLD_handler_set = True


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden tensors; its README.md describes them."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def resources() -> Path:
    """The folder of short recordings."""
    return Path(__file__).parent.parent / "resources"


@pytest.fixture
def micro_model(golden: Path) -> CedForAudioClassification:
    """A new classifier of 13 classes with 3 blocks of width 48, in evaluation mode."""
    return CedForAudioClassification.from_pretrained(golden / "micro_hub").eval()


@pytest.fixture(scope="session")
def feature_extractor(golden: Path) -> CedFeatureExtractor:
    return CedFeatureExtractor.from_pretrained(golden / "micro_hub")


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small classifier of AudioSet's 527 classes with random weights."""
    folder = tmp_path_factory.mktemp("random_model")
    torch.manual_seed(0)
    CedForAudioClassification(CedConfig(embed_dim=48, depth=2, num_heads=3)).save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of noise as a wav file."""
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=8000), 16000)
    return path


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25.3 s of noise with varying level, as a stereo flac file at 22.05 kHz."""
    path = tmp_path_factory.mktemp("clip") / "long.flac"
    time = np.arange(int(25.3 * 22050)) / 22050
    noise = np.random.default_rng(1).normal(scale=0.05, size=(len(time), 2))
    soundfile.write(path, noise * (1 + np.sin(2 * time))[:, None], 22050)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` whose head has one CPU; connections to it are closed at the end."""
    import ray
    from ray.cluster_utils import Cluster
    from ray_nodes import HEAD

    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
