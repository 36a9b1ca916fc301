# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Teachers: audio classifiers of transformers, Python callables, and ensembles of these."""

import importlib
import importlib.util
import inspect
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedModel

from ...engines.torch import activate
from ...hub import MODEL_FILES, locate_model
from ...labelled import MULTI_LABEL, SINGLE_LABEL
from ...messages import one_line
from ...safetensors_index import has_safetensors
from .front_ends import Features, FrontEnd, WaveformFrontEnd, choose_front_end
from .store import MAX_CLASSES


class Teacher(Protocol):
    """
    A model with probabilities as outputs.

    Attributes:
        name: The name given by the user.
        labels: Its classes in order.
        front_end: Computes its features.
    """

    name: str
    labels: list[str]
    front_end: FrontEnd

    def probabilities(self, features: Features) -> np.ndarray:
        """Probabilities of shape `(batch, classes)`, from the features of its front end."""

    def describe(self) -> dict[str, Any]:
        """Its entry in the manifest, with a `checksum` to detect changes."""


class ModelTeacher:
    """An audio classifier of transformers: sigmoid if it is multi-label, softmax if it has one class per clip."""

    def __init__(self, name: str, model: PreTrainedModel, front_end: FrontEnd, extractor_settings: dict) -> None:
        self.name = name
        self.model = model.eval()
        self.front_end = front_end
        self.labels = [str(label) for _, label in sorted((model.config.id2label or {}).items())]
        is_multi_label = model.config.problem_type == MULTI_LABEL  # often missing in classifiers of transformers
        self.problem_type = MULTI_LABEL if is_multi_label else SINGLE_LABEL
        self._settings = extractor_settings

    @torch.inference_mode()
    def probabilities(self, features: Features) -> np.ndarray:
        device = self.model.device
        logits = self.model(**{name: tensor.to(device) for name, tensor in features.items()}).logits.float()
        return activate(logits, self.problem_type).cpu().numpy()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "transformers",
            "model_type": self.model.config.model_type,
            "checksum": _weights_checksum(self.model, self._settings),
            "activation": "sigmoid" if self.problem_type == MULTI_LABEL else "softmax",
            "masks": self.front_end.masks,
            "front_end": self._settings,
        }


class CallableTeacher:
    """A Python callable with `labels`: waveforms, float32 of shape `(batch, samples)` at 16 kHz → probabilities."""

    def __init__(self, name: str, function: Callable[..., Any], source: str | None) -> None:
        labels = getattr(function, "labels", None)
        if isinstance(labels, str) or not isinstance(labels, Sequence) or not all(isinstance(x, str) for x in labels):
            raise ValueError(
                f"The teacher {name} must have `labels`, a list of the names of its classes, got {labels!r:.80}."
            )
        self.name = name
        self.labels = list(labels)
        self.front_end: FrontEnd = WaveformFrontEnd()
        self._function = function
        self._source = source

    def probabilities(self, features: Features) -> np.ndarray:
        waveforms = features["waveforms"].numpy()
        result = self._function(waveforms.copy())
        if isinstance(result, torch.Tensor):
            result = result.detach().float().cpu()
        return _checked(self.name, np.asarray(result), (len(waveforms), len(self.labels)))

    def describe(self) -> dict[str, Any]:
        # A checksum of the source only, without weights or imported code.
        checksum = None if self._source is None else f"{zlib.crc32(Path(self._source).read_bytes()):08x}"
        return {"name": self.name, "kind": "callable", "checksum": checksum, "masks": self.front_end.masks}


class Ensemble:
    """
    Averages the probabilities of teachers with the same labels.

    Attributes:
        front_ends: The front ends of the teachers. Teachers with equal ones share them.

    Raises:
        ValueError: if there is no teacher, or if their labels differ.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        if not teachers:
            raise ValueError("No teachers: give at least one.")
        for teacher in teachers:
            _check_labels(teachers[0], teacher)
        self.teachers = list(teachers)
        self.labels = teachers[0].labels
        self.front_ends: list[FrontEnd] = []
        self._places: list[int] = []
        for teacher in teachers:
            if teacher.front_end not in self.front_ends:
                self.front_ends.append(teacher.front_end)
            self._places.append(self.front_ends.index(teacher.front_end))

    @property
    def needs_equal_lengths(self) -> bool:
        """Whether all chunks of a batch must have the same length."""
        return any(front_end.needs_equal_lengths for front_end in self.front_ends)

    def probabilities(self, features: Sequence[Features]) -> np.ndarray:
        """Mean of the teachers' probabilities, float64 of shape `(batch, classes)`, from the features by front end."""
        each = [t.probabilities(features[place]) for t, place in zip(self.teachers, self._places, strict=True)]
        return np.asarray(np.mean(each, axis=0, dtype=np.float64))

    def describe(self) -> list[dict[str, Any]]:
        return [teacher.describe() for teacher in self.teachers]


TeacherSource = str | os.PathLike | Callable[..., Any]


def load_teachers(sources: Sequence[TeacherSource], device: str | torch.device = "cpu") -> Ensemble:
    """
    Loads an ensemble.

    Args:
        sources: Model folders, ids of Hub repositories, callables, or names of callables (`module:attribute` or
            `path/to/file.py:attribute`).
        device: Device of transformers models; callables choose their own.

    Raises:
        ValueError: if a teacher cannot be loaded, is not a classifier, or has different labels than the first.
    """
    if isinstance(sources, str | os.PathLike):
        raise ValueError(f"Expected a list of teachers, got {os.fspath(sources)!r}.")
    return Ensemble([load_teacher(source, device) for source in sources])


def load_teacher(source: TeacherSource, device: str | torch.device = "cpu") -> Teacher:
    """Loads one teacher: see `load_teachers`."""
    if not isinstance(source, str | os.PathLike):
        return _wrap_callable(source)
    name = os.fspath(source)
    if ":" in name and not os.path.exists(name):
        return _load_callable(name)
    return _load_model(name, device)


# Models


def _load_model(name: str, device: str | torch.device) -> ModelTeacher:
    try:
        source = locate_model(name)
        if not has_safetensors(source):
            source = locate_model(name, patterns=(*MODEL_FILES, "pytorch_model*"))
    except OSError as error:
        reason = one_line(error).rstrip(".")
        raise ValueError(
            f"The teacher {name} cannot be loaded: {reason}; or give a callable as path/to/file.py:attribute"
        ) from error
    try:
        model, report = AutoModelForAudioClassification.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
        extractor = AutoFeatureExtractor.from_pretrained(source)
    except Exception as error:  # safetensors, json and torch have their own types
        raise ValueError(f"The teacher {name} cannot be loaded: {one_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"The teacher {name} has no weights for {len(missing)} of its tensors, such as {missing[0]}: it is not"
            " a trained audio classifier."
        )
    if model.config.problem_type == "regression":
        raise ValueError(f"The teacher {name} is a regression model: its outputs are not probabilities.")
    settings = json.loads(extractor.to_json_string())
    return ModelTeacher(name, model.to(device), choose_front_end(extractor), settings)


def _weights_checksum(model: PreTrainedModel, extractor_settings: dict[str, Any]) -> str:
    """A checksum of all that the model's outputs depend on: weights, configuration and front end."""
    checksum = 0
    for settings in (model.config.to_dict(), extractor_settings):
        kept = {key: value for key, value in settings.items() if key not in ("_name_or_path", "transformers_version")}
        checksum = zlib.crc32(json.dumps(kept, sort_keys=True, default=str).encode(), checksum)
    for name, tensor in sorted(model.state_dict().items()):
        weights = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(weights.data, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


# Callables


def _load_callable(name: str) -> CallableTeacher:
    place, _, attribute = name.rpartition(":")
    try:
        module = _load_file(place) if place.endswith(".py") else importlib.import_module(place)
        function = module
        for part in attribute.split("."):
            function = getattr(function, part)
        if inspect.isclass(function):
            function = function()
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"The teacher {name} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error
    if not callable(function):
        raise ValueError(f"The teacher {name} is a {type(function).__name__}, not a callable.")
    return CallableTeacher(name, function, getattr(module, "__file__", None))


def _wrap_callable(function: Any) -> CallableTeacher:
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}:{named.__qualname__}"
    if not callable(function) or inspect.isclass(function):
        raise ValueError(f"The teacher {name} is neither a name nor a callable that takes waveforms.")
    try:
        source = inspect.getsourcefile(named)
    except (TypeError, OSError):  # a built-in, or defined in an interactive session
        source = None
    return CallableTeacher(name, function, source if source and os.path.isfile(source) else None)


def _load_file(place: str) -> ModuleType:
    path = Path(place).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    spec = importlib.util.spec_from_file_location(f"ced_teacher_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _checked(name: str, probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns the probabilities; raises a ValueError unless they are finite and have this shape."""
    if probabilities.shape != shape:
        raise ValueError(
            f"The teacher {name} returned the shape {probabilities.shape}, not {shape}: (batch, classes) of its labels."
        )
    if probabilities.dtype.kind != "f":
        raise ValueError(f"The teacher {name} returned values of type {probabilities.dtype}, not floating point.")
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # also fails for NaN
        raise ValueError(
            f"The teacher {name} returned values from {low:.3g} to {high:.3g}, which are not probabilities: apply a"
            " sigmoid or a softmax to logits."
        )
    return probabilities.clip(0, 1)


# Ensembles


def _check_labels(first: Teacher, other: Teacher) -> None:
    if not 1 <= len(other.labels) <= MAX_CLASSES:
        raise ValueError(f"The teacher {other.name} has {len(other.labels)} classes; a store has 1 to {MAX_CLASSES}.")
    if len(set(other.labels)) < len(other.labels):
        twice = next(label for label in other.labels if other.labels.count(label) > 1)
        raise ValueError(f"The teacher {other.name} has two classes {twice!r}.")
    difference = describe_label_difference(first.labels, other.labels, first.name, other.name)
    if difference is not None:
        raise ValueError(f"Teachers must have the same labels in the same order: {difference}.")


def describe_label_difference(first: Sequence[str], other: Sequence[str], name: str, other_name: str) -> str | None:
    """The first difference of two lists of labels, on one line; None if they are equal."""
    if len(first) != len(other):
        return f"{name} has {len(first)} classes, {other_name} has {len(other)}"
    for index, (label, other_label) in enumerate(zip(first, other, strict=True)):
        if label != other_label:
            return f"class {index} is {label!r} in {name}, but {other_label!r} in {other_name}"
    return None
