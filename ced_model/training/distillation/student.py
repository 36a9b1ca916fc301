# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the student from a published size, a configuration or a model, with the labels of the store."""

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ...bundled import resolve_model
from ...configuration_ced import CED_SIZES, CedConfig
from ...feature_extraction_ced import CedFeatureExtractor
from ...labelled import MULTI_LABEL
from ...messages import one_line
from ...modeling_ced import CedForAudioClassification
from ...pretrained import load_classifier, load_feature_extractor
from ...safetensors_index import has_safetensors
from .front_ends import front_end_parameters
from .store import Store
from .teachers import describe_label_difference

SIZES = tuple(name.removeprefix("ced-") for name in CED_SIZES)


@dataclass(frozen=True)
class Student:
    """
    A model before training.

    Attributes:
        model: The model, multi-label with the labels of the store, in float32 on the CPU.
        feature_extractor: Its feature extractor.
        description: Its initial weights, for the model card.
        base_model: Hub id of the initial weights, if they are from the Hub.
        has_weights: Whether it has the weights of a model, or random ones.
        notes: Changes of the model, one line each.
    """

    model: CedForAudioClassification
    feature_extractor: CedFeatureExtractor
    description: str
    base_model: str | None = None
    has_weights: bool = False
    notes: tuple[str, ...] = ()


def load_student(
    student: str | os.PathLike[str] | CedConfig | CedForAudioClassification,
    store: Store,
    seed: int = 0,
) -> Student:
    """
    Loads or makes a student with a head for the store's labels.

    Args:
        student: `"tiny"`, `"mini"`, `"small"` or `"base"` for random weights in that published shape (with as many time
            positions as a chunk needs); a configuration, a `config.json` or a folder with only that file for random
            weights; a model, model folder, Hub id or `"ced-nano"` (the bundled model) for a copy of its weights. Other
            classes are replaced by those of the store.
        store: The store for the training.
        seed: Seed of the random weights.

    Raises:
        `ValueError`: if there is no such model, if it cannot be read, or if its front end or the length of the chunks
            do not fit.
    """
    if isinstance(student, CedForAudioClassification):
        return _from_model(student, load_feature_extractor(None, student.config), store, seed, "the given model")
    if isinstance(student, CedConfig):
        return _from_config(student, store, seed, "the given configuration", None)
    name = resolve_model(student)
    if name in SIZES:
        return _from_size(name, store, seed)
    path = Path(name).expanduser()
    if path.is_file() or (path.is_dir() and not (has_safetensors(path) or (path / "pytorch_model.bin").is_file())):
        file = path if path.is_file() else path / "config.json"
        return _from_config(_read_config(file), store, seed, f"`{path.absolute().name}`", file.parent)
    is_local = path.exists()
    if not is_local and name.count("/") != 1:
        raise ValueError(f"The student {name!r} is not {', '.join(SIZES)}, a config.json, a model folder or a Hub id.")
    model, extractor, has_head = load_classifier(path if is_local else name)
    description = f"`{path.absolute().name if is_local else name}`"
    return _from_model(model, extractor, store, seed, description, None if is_local else name, has_head)


# --- Random weights --------------------------------------------------------------------------------------------------


def _from_size(size: str, store: Store, seed: int) -> Student:
    extractor, config = CedFeatureExtractor(), CedConfig(name=f"ced-{size}")
    notes: tuple[str, ...] = ()
    frames = extractor.num_frames(store.augmentation.chunk_samples)
    # Positions after the end of the chunks would not be trained; the published shape is for 10 s.
    if frames // config.patch_size < config.num_patches[1] - 1 or frames > config.target_length:
        config.target_length = frames
        notes = (f"the student's `target_length` is {frames}, for chunks of {store.augmentation.chunk_s:g} s",)
    _check_fits(config, extractor, store)
    description = f"random weights in the shape of ced-{size}"
    return Student(_make_model(config, store, seed), extractor, description, notes=notes)


def _read_config(path: Path) -> CedConfig:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The student's {path} cannot be read: {one_line(error)}.") from error
    if not isinstance(stored, dict) or stored.get("model_type") != CedConfig.model_type:
        raise ValueError(f'The student\'s {path} is not the configuration of a CED model: "model_type" must be "ced".')
    try:
        return CedConfig.from_dict(stored)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"The student's {path} is invalid: {one_line(error)}") from error


def _from_config(config: CedConfig, store: Store, seed: int, description: str, folder: Path | None) -> Student:
    try:
        extractor = load_feature_extractor(folder, config)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The student's feature extractor cannot be loaded: {one_line(error)}") from error
    notes = _check_fits(config, extractor, store)
    description = f"random weights in the shape of {description}"
    return Student(_make_model(config, store, seed), extractor, description, notes=notes)


def _make_model(config: CedConfig, store: Store, seed: int) -> CedForAudioClassification:
    """A model with random weights that depend only on the seed, and a head for the store's labels."""
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(store.labels))
    config.label2id = {name: index for index, name in enumerate(store.labels)}
    config.problem_type = MULTI_LABEL  # type: ignore[assignment]
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
        torch.manual_seed(seed)
        return CedForAudioClassification(config).float()


# --- Weights of a model ----------------------------------------------------------------------------------------------


def _from_model(
    source: CedForAudioClassification,
    extractor: CedFeatureExtractor,
    store: Store,
    seed: int,
    description: str,
    base_model: str | None = None,
    has_head: bool = True,
) -> Student:
    """A copy of `source`, with a new head unless its labels are those of the store."""
    notes = _check_fits(source.config, extractor, store)
    model = _make_model(source.config, store, seed)
    model.encoder.load_state_dict(source.encoder.state_dict())
    names: Any = source.config.id2label if has_head else {}
    labels = [str(names[index]) for index in sorted(names)]
    difference = describe_label_difference(labels, store.labels, "the student", "the store")
    if difference is None and source.config.problem_type != MULTI_LABEL:
        difference = f"it was trained for {source.config.problem_type}"
    if difference is None:
        model.outputlayer.load_state_dict(source.outputlayer.state_dict())
    else:
        notes += (f"the student's head is replaced by a new one: {difference}",)
    return Student(model, extractor, description, base_model, has_weights=True, notes=notes)


def _check_fits(config: CedConfig, extractor: CedFeatureExtractor, store: Store) -> tuple[str, ...]:
    """Raises a ValueError if the store's chunks do not fit the model; returns notes on untrained positions."""
    if extractor.feature_size != config.n_mels:
        raise ValueError(
            f"The student's preprocessor_config.json has {extractor.feature_size} mel bins, its config.json"
            f" {config.n_mels}."
        )
    own, stored = front_end_parameters(extractor), store.manifest["front_end"]
    differing = [name for name in {**stored, **own} if own.get(name) != stored.get(name)]
    if differing:
        difference = ", ".join(f"{name} is {own.get(name)}, in the store {stored.get(name)}" for name in differing)
        raise ValueError(
            f"The student's front end differs from the store's: {difference}. Use another student or store."
        )
    seconds = f"{store.augmentation.chunk_s:g} s"
    frames = extractor.num_frames(store.augmentation.chunk_samples)
    if frames > config.target_length:
        raise ValueError(
            f"The store's chunks of {seconds} are {frames} frames long; the student encodes at most"
            f" `target_length` {config.target_length} in one piece: make a store of shorter chunks, or give the student"
            " a longer `target_length` (`from_pretrained` interpolates the time positions)."
        )
    positions = config.num_patches[1]
    untrained = positions - frames // config.patch_size
    if untrained * config.patch_size * extractor.hop_size < extractor.sampling_rate:
        return ()
    return (f"chunks of {seconds} do not train the last {untrained} of the student's {positions} time positions",)
