# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The custom code that is saved with a model. Its files import this file first, which checks transformers' version."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MIN_TRANSFORMERS = "5.23"

# The model and its feature extractor require NumPy, torch and transformers; the pipeline also soundfile and soxr.
MODEL_CODE = (
    "audioset.py",
    "configuration_ced.py",
    "custom_code.py",
    "feature_extraction_ced.py",
    "log_mel.py",
    "model_settings.py",
    "modeling_ced.py",
)
PIPELINE_CODE = (
    "audio.py",
    "audio_chunks.py",
    "audio_inputs.py",
    "av_decoding.py",
    "c_stderr.py",
    "classes.py",
    "dataset_columns.py",
    "evaluation_mode.py",
    "events.py",
    "forking.py",
    "messages.py",
    "packages.py",
    "pipeline_ced.py",
    "pipeline_inputs.py",
    "results.py",
    "scheduling.py",
    "soundfile_decoding.py",
    "timestamps.py",
    "wav_headers.py",
    "windows.py",
)
CODE_FILES = (*MODEL_CODE, *PIPELINE_CODE)
# The `auto_map` of `config.json` and of `preprocessor_config.json`.
AUTO_MAP = {
    "AutoConfig": "configuration_ced.CedConfig",
    "AutoModel": "modeling_ced.CedModel",
    "AutoModelForAudioClassification": "modeling_ced.CedForAudioClassification",
    "AutoModelForAudioFrameClassification": "modeling_ced.CedForAudioFrameClassification",
}
EXTRACTOR_AUTO_MAP = {"AutoFeatureExtractor": "feature_extraction_ced.CedFeatureExtractor"}
# The field of `config.json` in which `pipeline` finds the class if this package is not installed.
CUSTOM_PIPELINES = {
    "audio-classification": {
        "impl": "pipeline_ced.CedAudioClassificationPipeline",
        "pt": ["AutoModelForAudioClassification"],
        "type": "audio",
    }
}

with suppress(PackageNotFoundError):
    # With older versions, imports fail, or the model has wrong scores.
    found = version("transformers")
    if [int(number) for number in re.findall(r"\d+", found)[:2]] < [int(part) for part in MIN_TRANSFORMERS.split(".")]:
        raise ImportError(
            f"CED requires transformers {MIN_TRANSFORMERS} or newer, found {found}:"
            f' pip install --upgrade "transformers>={MIN_TRANSFORMERS}"'
        )


class OwnCode:
    """
    The `_auto_class` of a class, so that transformers saves its code with it and it can be loaded without this package.
    Subclasses by other authors have none until they are registered by `register_for_auto_class`.
    """

    def __init__(self, auto_class: str) -> None:
        self.auto_class = auto_class

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner

    def __get__(self, instance: Any, owner: type) -> str | None:
        return self.auto_class if owner is self.owner else None


def drop_absent_code(owner: Any, folder: str | os.PathLike[str]) -> None:
    """Removes files that are not in `folder` from the `auto_map` of a configuration or feature extractor."""
    auto_map = vars(owner).pop("auto_map", None)
    kept = {
        auto_class: place
        for auto_class, place in (auto_map if isinstance(auto_map, dict) else {}).items()
        if isinstance(place, str) and Path(folder, f"{place.partition('.')[0]}.py").is_file()
    }
    if kept:
        vars(owner)["auto_map"] = kept


@contextmanager
def pipeline_code(config: Any, folder: str | os.PathLike[str]) -> Iterator[None]:
    """
    Copies the pipeline's code to `folder` and refers to it in the configuration within the context, if the folder has
    the configuration's code and the model is not an encoder without classes.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    kept = vars(config).pop("custom_pipelines", None)
    if Path(folder, "configuration_ced.py").is_file() and config.architectures != ["CedModel"]:
        # The copy of the custom code in transformers' cache has the pipeline only if it was loaded.
        places = [Path(__file__).parent, *([Path(config.name_or_path)] if config.name_or_path else [])]
        source = next((path for place in places if (path := place / "pipeline_ced.py").is_file()), None)
        if source is not None:
            for path in (source, *(Path(str(name)) for name in get_relative_import_files(source))):
                target = Path(folder, path.name)
                if not (target.exists() and target.samefile(path)):
                    shutil.copyfile(path, target)
            config.custom_pipelines = deepcopy(CUSTOM_PIPELINES)
    try:
        yield
    finally:
        vars(config).pop("custom_pipelines", None)
        if kept is not None:
            config.custom_pipelines = kept
