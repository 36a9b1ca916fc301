# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What the files that are saved with a model as custom code share. They import this file before anything else."""

import os
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MIN_TRANSFORMERS = "5.23"

CODE_FILES = (
    "audioset.py",
    "configuration_ced.py",
    "custom_code.py",
    "feature_extraction_ced.py",
    "log_mel.py",
    "model_settings.py",
    "modeling_ced.py",
)
# The `auto_map` of `config.json` and of `preprocessor_config.json`.
AUTO_MAP = {
    "AutoConfig": "configuration_ced.CedConfig",
    "AutoModel": "modeling_ced.CedModel",
    "AutoModelForAudioClassification": "modeling_ced.CedForAudioClassification",
    "AutoModelForAudioFrameClassification": "modeling_ced.CedForAudioFrameClassification",
}
EXTRACTOR_AUTO_MAP = {"AutoFeatureExtractor": "feature_extraction_ced.CedFeatureExtractor"}

with suppress(PackageNotFoundError):
    # Older versions lack what is imported, or load the model and give other scores.
    found = version("transformers")
    if [int(number) for number in re.findall(r"\d+", found)[:2]] < [int(part) for part in MIN_TRANSFORMERS.split(".")]:
        raise ImportError(
            f"CED needs transformers {MIN_TRANSFORMERS} or newer, found {found}:"
            f' pip install --upgrade "transformers>={MIN_TRANSFORMERS}"'
        )


class OwnCode:
    """
    The `_auto_class` of a class whose code is saved with it, so that it loads where this package is not installed.
    Subclasses by other authors have none, until they are registered by `register_for_auto_class`.
    """

    def __init__(self, auto_class: str) -> None:
        self.auto_class = auto_class

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner

    def __get__(self, instance: Any, owner: type) -> str | None:
        return self.auto_class if owner is self.owner else None


def drop_absent_code(owner: Any, folder: str | os.PathLike[str]) -> None:
    """Removes from the `auto_map` of a configuration or feature extractor the files that `folder` does not have."""
    auto_map = vars(owner).pop("auto_map", None)
    kept = {
        auto_class: place
        for auto_class, place in (auto_map if isinstance(auto_map, dict) else {}).items()
        if isinstance(place, str) and Path(folder, f"{place.partition('.')[0]}.py").is_file()
    }
    if kept:
        vars(owner)["auto_map"] = kept
