# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that is to learn: a published shape, a configuration or weights to go on from, with the store's labels."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from .front_ends import front_end_parameters
from .store import Store
from .teachers import describe_label_difference

SIZES = tuple(name.removeprefix("ced-") for name in CED_SIZES)
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
LABEL_FIELDS = ("id2label", "outputdim", "num_labels")


@dataclass(frozen=True)
class Student:
    """
    A model ready to be trained.

    Attributes:
        model: With the labels of the store, multi-label, in float32 on the CPU.
        feature_extractor: Its front end.
        description: What it began as, for the model card.
        base_model: Hub id of the weights that it began with, if they came from there.
        has_weights: Whether it began with weights; otherwise they are random.
        notes: What was changed or assumed, each one line.
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
    The student that `student` names, with a head for the store's labels.

    Args:
        student (`str`, `os.PathLike`, `CedConfig` or `CedForAudioClassification`):
            `"tiny"`, `"mini"`, `"small"` or `"base"` for random weights in that published shape (with as many time
            positions as a chunk needs); a `config.json` or a folder with nothing but one for random weights; a model
            folder, Hub id or `"ced-nano"` (the bundled model) for weights to go on from. Of a model the weights are
            taken, not the model itself.
        store (`Store`):
            What it will be trained on.
        seed (`int`, *optional*, defaults to 0):
            Of the random weights.

    Returns:
        [`Student`]: the model, and what was changed for it to fit.

    Raises:
        `ValueError`: with one line, if there is no such model, if it cannot be read, if a configuration asks for other
            classes, or if front end or length of the chunks are not those of the model.
    """
    if isinstance(student, CedForAudioClassification):
        extractor = load_feature_extractor(None, student.config)
        return _from_model(student, extractor, class_names(student.config), store, seed, "the given model")
    if isinstance(student, CedConfig):
        return _from_config(student, store, seed, "the given configuration", None)
    name = resolve_model(student)
    if name in SIZES:
        return _from_size(name, store, seed)
    path = Path(name).expanduser()
    if path.is_file() or (path.is_dir() and not any((path / file).is_file() for file in WEIGHT_FILES)):
        folder = path.parent if path.is_file() else path
        config = _read_config(path if path.is_file() else path / "config.json", store.labels)
        return _from_config(config, store, seed, f"`{path.absolute().name}`", folder)
    is_local = path.exists()
    if not is_local and name.count("/") != 1:
        raise ValueError(
            f"The student {name!r} is none of {', '.join(SIZES)}, and no config.json, model folder or Hub id either."
        )
    model, extractor, has_head = load_classifier(path if is_local else name)
    labels = class_names(model.config) if has_head else []
    loaded = _from_model(model, extractor, labels, store, seed, f"`{path.absolute().name if is_local else name}`")
    return loaded if is_local else replace(loaded, base_model=name)


# --- Random weights --------------------------------------------------------------------------------------------------


def _from_size(size: str, store: Store, seed: int) -> Student:
    extractor = CedFeatureExtractor()
    config = CedConfig(name=f"ced-{size}")
    _check_front_end(extractor, store)
    frames, notes = _chunk_frames(extractor, store), []
    # Positions behind the end of every chunk would stay random; the published shape is made for 10 s.
    if _patches(frames, config) < _patches(config.target_length, config) - 1 or frames > config.target_length:
        config.target_length = frames
        notes = [
            f"the student looks at {_seconds(store)} in one piece (`target_length` {frames}), as long as the chunks are"
        ]
    model = _make_model(config, store.labels, seed)
    return Student(model, extractor, f"random weights in the shape of ced-{size}", notes=tuple(notes))


def _read_config(path: Path, labels: Sequence[str]) -> CedConfig:
    """A configuration without weights; raises a ValueError if it names classes that are not `labels`."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The student's {path} cannot be read: {one_line(error)}.") from error
    if not isinstance(stored, dict) or stored.get("model_type") != CedConfig.model_type:
        raise ValueError(f'The student\'s {path} is not the configuration of a CED model: "model_type" must be "ced".')
    try:
        config = CedConfig.from_dict(stored)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"The student's {path} is not possible: {one_line(error)}") from error
    given = [name for name in LABEL_FIELDS if name in stored]
    own = class_names(config) if "id2label" in stored or config.num_labels != len(labels) else labels
    if given and (difference := label_difference(own, labels)):
        raise ValueError(
            f"The student's {path} does not fit the store: {difference}. Take {', '.join(given)} out of it to give the"
            " student the store's classes."
        )
    return config


def _from_config(config: CedConfig, store: Store, seed: int, description: str, folder: Path | None) -> Student:
    try:
        extractor = load_feature_extractor(folder, config)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The student's feature extractor cannot be loaded: {one_line(error)}") from error
    notes = _check_fits(config, extractor, store)
    if config.problem_type != MULTI_LABEL:
        notes.append(f"the student becomes multi-label; its configuration says {config.problem_type}")
    model = _make_model(config, store.labels, seed)
    return Student(model, extractor, f"random weights in the shape of {description}", notes=tuple(notes))


def _make_model(config: CedConfig, labels: Sequence[str], seed: int) -> CedForAudioClassification:
    """A model with random weights that depend on the seed alone, and a head for `labels`."""
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    config.problem_type = MULTI_LABEL  # type: ignore[assignment]
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to draw
        torch.manual_seed(seed)
        return CedForAudioClassification(config).float()


# --- Weights to go on from -------------------------------------------------------------------------------------------


def _from_model(
    source: CedForAudioClassification,
    extractor: CedFeatureExtractor,
    labels: list[str],
    store: Store,
    seed: int,
    description: str,
) -> Student:
    """A copy of `source`, with a new head unless its `labels` are those of the store."""
    notes = _check_fits(source.config, extractor, store)
    model = _make_model(source.config, store.labels, seed)
    model.encoder.load_state_dict(source.encoder.state_dict())
    difference = label_difference(labels, store.labels)
    if not difference and source.config.problem_type == MULTI_LABEL:
        model.outputlayer.load_state_dict(source.outputlayer.state_dict())
    else:
        reason = difference or f"it was trained for {source.config.problem_type}"
        notes.append(f"the student's head is replaced by a new one: {reason}")
    return Student(model, extractor, description, has_weights=True, notes=tuple(notes))


# --- What must fit ---------------------------------------------------------------------------------------------------


def class_names(config: CedConfig) -> list[str]:
    names: Any = config.id2label or {}
    return [str(names[index]) for index in sorted(names)]


def label_difference(own: Sequence[str], stored: Sequence[str]) -> str | None:
    """One phrase on how a student's classes differ from the store's; None if they are the same in the same order."""
    if not own:
        return f"it has no classes, the store has {len(stored)}"
    return describe_label_difference(own, stored, "the student", "the store")


def front_end_difference(own: Mapping[str, Any], stored: Mapping[str, Any]) -> str | None:
    """One phrase on how a student's front end differs from the store's; None if both make the same log-mels."""
    differing = [name for name in {**stored, **own} if own.get(name) != stored.get(name)]
    return ", ".join(f"{name} is {own.get(name)}, in the store {stored.get(name)}" for name in differing) or None


def _check_fits(config: CedConfig, extractor: CedFeatureExtractor, store: Store) -> list[str]:
    """Raises a ValueError if the store's chunks are not what the model takes; notes on what it will not learn."""
    if extractor.feature_size != config.n_mels:
        raise ValueError(
            f"The student's preprocessor_config.json has {extractor.feature_size} mel bins, its config.json"
            f" {config.n_mels}."
        )
    _check_front_end(extractor, store)
    frames = _chunk_frames(extractor, store)
    if frames > config.target_length:
        raise ValueError(
            f"The store's chunks of {_seconds(store)} are {frames} frames long, but the student encodes at most"
            f" `target_length` {config.target_length} in one piece: make a store of shorter chunks, or give the student"
            " a longer `target_length` (`from_pretrained` stretches the position table to it)."
        )
    untrained = _patches(config.target_length, config) - _patches(frames, config)
    if untrained * config.patch_size * extractor.hop_size < extractor.sampling_rate:
        return []
    return [
        f"chunks of {_seconds(store)} do not train the last {untrained} of the student's"
        f" {_patches(config.target_length, config)} time positions"
    ]


def _check_front_end(extractor: CedFeatureExtractor, store: Store) -> None:
    difference = front_end_difference(front_end_parameters(extractor), store.manifest["front_end"])
    if difference:
        raise ValueError(f"The student's front end is not the store's: {difference}. Give another student or store.")


def _chunk_frames(extractor: CedFeatureExtractor, store: Store) -> int:
    return extractor.num_frames(store.augmentation.chunk_samples)


def _seconds(store: Store) -> str:
    return f"{store.augmentation.chunk_s:g} s"


def _patches(frames: int, config: CedConfig) -> int:
    return frames // config.patch_size
