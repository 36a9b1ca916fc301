# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What the tests share."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ced_model import CedFeatureExtractor, CedForAudioClassification

# Examples differ in cost by far (the first one compiles or fills caches), and no test asserts a time.
settings.register_profile("ced", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("ced")


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
    """A classifier of 13 classes with 3 blocks of width 48, in evaluation mode; each test has its own."""
    return CedForAudioClassification.from_pretrained(golden / "micro_hub").eval()


@pytest.fixture(scope="session")
def feature_extractor(golden: Path) -> CedFeatureExtractor:
    return CedFeatureExtractor.from_pretrained(golden / "micro_hub")
