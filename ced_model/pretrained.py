# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Loads PyTorch models from model folders and saves them with configurations, custom code and model card."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from .configuration_ced import CedConfig
from .custom_code import PIPELINE_CODE
from .feature_extraction_ced import CedFeatureExtractor
from .messages import one_line, printable
from .model_files import HANDLER, REQUIREMENTS, check_replaceable, write_handler
from .model_files import MODEL_FILES as MODEL_FILES
from .model_files import check_output as check_output
from .model_folder import PREPROCESSOR, check_model_folder, find_folder
from .model_settings import front_end_of
from .modeling_ced import CedForAudioClassification
from .output import new_folder

# Hugging Face Inference Endpoints install the requirements and call the handler.
CLASSIFIER_FILES = frozenset((*PIPELINE_CODE, HANDLER, REQUIREMENTS))  # not needed by encoders


class Loaded(NamedTuple):
    """
    A classifier in float32 on the CPU.

    Attributes:
        model: The classifier, with a new head if the folder has an encoder.
        feature_extractor: Its feature extractor.
        has_head: Whether the folder has a head.
    """

    model: CedForAudioClassification
    feature_extractor: CedFeatureExtractor
    has_head: bool


def load_classifier(model: str | os.PathLike[str]) -> Loaded:
    """
    Loads a model folder, Hub id or bundled model for training.

    Raises:
        ValueError: if it is not a CED model, or lacks tensors.
        OSError: if there is no such folder or repository, or it cannot be reached.
    """
    try:
        folder = find_folder(model)
        check_model_folder(folder)
        with quiet():
            loaded: Any = CedForAudioClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
        network, report = loaded
        feature_extractor = load_feature_extractor(folder, network.config)
    except (SafetensorError, StrictDataclassError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"{printable(model)} cannot be loaded: {one_line(error)}") from error
    missing = sorted(map(str, report["missing_keys"]))
    absent = [name for name in missing if not name.startswith("outputlayer.")]
    if absent:
        raise ValueError(f"{printable(model)} cannot be loaded: it lacks {len(absent)} tensors, such as {absent[0]}.")
    return Loaded(network, feature_extractor, not missing)


def load_feature_extractor(folder: Path | None, config: CedConfig) -> CedFeatureExtractor:
    """The feature extractor from the `preprocessor_config.json` of a folder or, without one, from `config`."""
    if folder is not None and (folder / PREPROCESSOR).is_file():
        return CedFeatureExtractor.from_pretrained(folder)
    return CedFeatureExtractor.from_front_end(front_end_of(config.to_dict()))


@contextmanager
def new_model_folder(target: Path, overwrite: bool, further: Collection[str] = ()) -> Iterator[Path]:
    """A folder that becomes `target` at the end of the context, see [`new_folder`] and [`check_output`]."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(target, partial(check_replaceable, further=further) if overwrite else None) as folder, quiet():
        yield folder


def save_model_folder(
    model: PreTrainedModel,
    feature_extractor: CedFeatureExtractor,
    folder: str | os.PathLike[str],
    card: ModelCard,
) -> None:
    """
    Writes the files of a Hub repository to `folder`: weights, configurations, custom code and model card.

    The folder can be loaded with `trust_remote_code=True` if `ced_model` is not installed. For a classifier, it also
    has a handler for Inference Endpoints.
    """
    model.save_pretrained(folder)
    if isinstance(model, CedForAudioClassification):
        write_handler(Path(folder))
    feature_extractor.save_pretrained(folder)
    # safetensors ignores the umask and makes its file readable only by the owner.
    shutil.copymode(Path(folder) / "config.json", Path(folder) / "model.safetensors")
    card.save(Path(folder) / "README.md")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses transformers' report on tensors that were not loaded, and its progress bar."""
    verbosity, shows_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bar:
            transformers_logging.enable_progress_bar()
