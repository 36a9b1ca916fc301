# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that is to learn: a published shape, a configuration or weights to go on from, with the store's labels."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError

from ...bundled import resolve_model
from ...configuration_ced import CED_SIZES, CedConfig
from ...feature_extraction_ced import CedFeatureExtractor
from ...modeling_ced import CedForAudioClassification
from .front_ends import front_end_parameters
from .store import Store

SIZES = tuple(name.removeprefix("ced-") for name in CED_SIZES)
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
LABEL_FIELDS = ("id2label", "outputdim", "num_labels")
MULTI_LABEL: Literal["multi_label_classification"] = (
    "multi_label_classification"  # teachers' probabilities are each for itself
)
SHARED_FIELDS = ("n_fft", "win_size", "hop_size", "f_min", "f_max", "center")  # of configuration and feature extractor


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
        return _from_model(student, store, seed, "the given model", None)
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
    if not path.exists() and not _is_repo_id(name):
        raise ValueError(
            f"The student {name!r} is none of {', '.join(SIZES)}, and no config.json, model folder or Hub id either."
        )
    source = os.fspath(path) if path.exists() else name
    model = _load_model(source)
    return _from_model(model, store, seed, f"`{path.absolute().name if path.exists() else name}`", source)


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.endswith((".json", ".pt", ".safetensors"))


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
        raise ValueError(f"The student's {path} cannot be read: {_one_line(error)}.") from error
    if not isinstance(stored, dict) or stored.get("model_type") != CedConfig.model_type:
        raise ValueError(f'The student\'s {path} is not the configuration of a CED model: "model_type" must be "ced".')
    try:
        config = CedConfig.from_dict(stored)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"The student's {path} is not possible: {_one_line(error)}") from error
    given = [name for name in LABEL_FIELDS if name in stored]
    own = class_names(config) if "id2label" in stored or config.num_labels != len(labels) else labels
    if given and (difference := label_difference(own, labels)):
        raise ValueError(
            f"The student's {path} does not fit the store: {difference}. Take {', '.join(given)} out of it to give the"
            " student the store's classes."
        )
    return config


def _from_config(config: CedConfig, store: Store, seed: int, description: str, folder: Path | None) -> Student:
    extractor = _load_extractor(folder, config)
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
    config.problem_type = MULTI_LABEL
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to draw
        torch.manual_seed(seed)
        return CedForAudioClassification(config).float()


# --- Weights to go on from -------------------------------------------------------------------------------------------


def _load_model(source: str) -> CedForAudioClassification:
    try:
        stored, _ = CedConfig.get_config_dict(source)
        if stored.get("model_type") != CedConfig.model_type:
            raise ValueError(f"it is no CED model, its `model_type` is {stored.get('model_type')!r}")
        architecture: Any = CedForAudioClassification
        model, report = architecture.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        if isinstance(error, OSError) and not os.path.isdir(source):
            raise ValueError(
                f"The student {source} is not here, and the Hugging Face Hub does not give it: check the name and the"
                f" network, or give a local folder. ({_one_line(error)})"
            ) from error
        raise ValueError(f"The student {source} cannot be loaded: {_one_line(error)}") from error
    missing = sorted(map(str, report["missing_keys"]))
    if missing and not all(name.startswith("outputlayer.") for name in missing):
        raise ValueError(f"The student {source} lacks weights: {', '.join(missing[:3])}, … Give a complete model.")
    if missing:
        model.config.id2label = {}  # an encoder; its configuration's classes mean nothing
    return model


def _from_model(
    source: CedForAudioClassification,
    store: Store,
    seed: int,
    description: str,
    location: str | None,
) -> Student:
    folder = Path(location) if location is not None and os.path.isdir(location) else None
    extractor = _load_extractor(location, source.config)
    notes = _check_fits(source.config, extractor, store)
    model = _make_model(source.config, store.labels, seed)
    model.encoder.load_state_dict(source.encoder.state_dict())
    difference = label_difference(class_names(source.config), store.labels)
    if not difference and source.config.problem_type == MULTI_LABEL:
        model.outputlayer.load_state_dict(source.outputlayer.state_dict())
    else:
        reason = difference or f"it was trained for {source.config.problem_type}"
        notes.append(f"the student's head is replaced by a new one: {reason}")
    base_model = location if location is not None and folder is None else None
    return Student(model, extractor, description, base_model, has_weights=True, notes=tuple(notes))


# --- What must fit ---------------------------------------------------------------------------------------------------


def class_names(config: CedConfig) -> list[str]:
    names: Any = config.id2label or {}
    return [str(names[index]) for index in sorted(names)]


def label_difference(own: Sequence[str], stored: Sequence[str]) -> str | None:
    """One phrase on how a student's classes differ from the store's; None if they are the same in the same order."""
    if list(own) == list(stored):
        return None
    if not own:
        return f"it has no classes, the store has {len(stored)}"
    if len(own) != len(stored):
        return f"it has {_count(own)}, the store has {len(stored)}"
    index = next(index for index, pair in enumerate(zip(own, stored, strict=True)) if pair[0] != pair[1])
    kind = "in another order" if sorted(own) == sorted(stored) else "other ones"
    return f"its {_count(own)} are {kind}: class {index} is {own[index]!r}, in the store {stored[index]!r}"


def front_end_difference(own: Mapping[str, Any], stored: Mapping[str, Any]) -> str | None:
    """One phrase on how a student's front end differs from the store's; None if both make the same log-mels."""
    differing = [name for name in {**stored, **own} if own.get(name) != stored.get(name)]
    return ", ".join(f"{name} is {own.get(name)}, in the store {stored.get(name)}" for name in differing) or None


def _load_extractor(location: str | os.PathLike[str] | None, config: CedConfig) -> CedFeatureExtractor:
    """The front end that is stored beside a configuration, or else what the configuration says."""
    try:
        if location is not None and _has_extractor(location):
            extractor = CedFeatureExtractor.from_pretrained(location)
        else:
            shared = {name: getattr(config, name) for name in SHARED_FIELDS}
            extractor = CedFeatureExtractor(feature_size=config.n_mels, **shared)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The student's feature extractor cannot be loaded: {_one_line(error)}") from error
    if extractor.feature_size != config.n_mels:
        raise ValueError(
            f"The student's preprocessor_config.json has {extractor.feature_size} mel bins, its config.json"
            f" {config.n_mels}."
        )
    return extractor


def _has_extractor(location: str | os.PathLike[str]) -> bool:
    is_hub_id = not os.path.isdir(location)
    return is_hub_id or os.path.isfile(os.path.join(location, "preprocessor_config.json"))


def _check_fits(config: CedConfig, extractor: CedFeatureExtractor, store: Store) -> list[str]:
    """Raises a ValueError if the store's chunks are not what the model takes; notes on what it will not learn."""
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


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} class{'es' * (len(names) != 1)}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
