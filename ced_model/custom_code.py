# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What the files that are saved with a model as custom code share. They import this file before anything else."""

import os
import re
from pathlib import Path
from typing import Any

import transformers

MIN_TRANSFORMERS = "5.23"

# Older versions lack what is imported, or load the model and give other scores.
if [int(number) for number in re.findall(r"\d+", transformers.__version__)[:2]] < [5, 23]:
    raise ImportError(
        f"CED needs transformers {MIN_TRANSFORMERS} or newer, found {transformers.__version__}:"
        f' pip install --upgrade "transformers>={MIN_TRANSFORMERS}"'
    )

CODE_FILES = (
    "audioset.py",
    "configuration_ced.py",
    "custom_code.py",
    "feature_extraction_ced.py",
    "log_mel.py",
    "model_settings.py",
    "modeling_ced.py",
)
# What `config.json` and `preprocessor_config.json` say about these files.
AUTO_MAP = {
    "AutoConfig": "configuration_ced.CedConfig",
    "AutoModel": "modeling_ced.CedModel",
    "AutoModelForAudioClassification": "modeling_ced.CedForAudioClassification",
}
EXTRACTOR_AUTO_MAP = {"AutoFeatureExtractor": "feature_extraction_ced.CedFeatureExtractor"}


def drop_absent_code(owner: Any, folder: str | os.PathLike[str]) -> None:
    """Removes what the `auto_map` of a configuration or feature extractor says about files that `folder` lacks."""
    auto_map = vars(owner).pop("auto_map", None)
    kept = {
        auto_class: place
        for auto_class, place in (auto_map if isinstance(auto_map, dict) else {}).items()
        if isinstance(place, str) and Path(folder, f"{place.partition('.')[0]}.py").is_file()
    }
    if kept:
        vars(owner)["auto_map"] = kept
