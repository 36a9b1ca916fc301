# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Adds CED to the Auto classes and the pipelines of transformers when transformers imports them, in any order.

transformers is never imported from here: importing it takes seconds, and tagging does without. Instead, functions run
when one of its modules has been imported (`wrapt.register_post_import_hook`). Modules of transformers import each
other while they are half loaded, so each function returns early until everything that it needs is there, and is tried
again after the next module.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import wrapt

from . import custom_code as _check_version  # noqa: F401  # raises an ImportError if transformers is too old

AUTO = "transformers.models.auto"
PACKAGE = __name__.rpartition(".")[0]


class Entry(NamedTuple):
    """One class of the package and the Auto class that is to find it."""

    auto_module: str
    auto_class: str
    module: str
    name: str
    needs: tuple[str, ...] = ()  # "module:attribute" that the package's own module imports from transformers


MODEL_NEEDS = (
    "transformers.modeling_layers:GradientCheckpointingLayer",
    "transformers.modeling_utils:PreTrainedModel",
    "transformers.masking_utils:create_bidirectional_mask",
    "transformers.core_model_loading:WeightConverter",
)
ENTRIES = (
    Entry(f"{AUTO}.configuration_auto", "AutoConfig", "configuration_ced", "CedConfig"),
    Entry(f"{AUTO}.feature_extraction_auto", "AutoFeatureExtractor", "feature_extraction_ced", "CedFeatureExtractor"),
    Entry(f"{AUTO}.modeling_auto", "AutoModel", "modeling_ced", "CedModel", MODEL_NEEDS),
    Entry(
        f"{AUTO}.modeling_auto",
        "AutoModelForAudioClassification",
        "modeling_ced",
        "CedForAudioClassification",
        MODEL_NEEDS,
    ),
    Entry(
        f"{AUTO}.modeling_auto",
        "AutoModelForAudioFrameClassification",
        "modeling_ced",
        "CedForAudioFrameClassification",
        MODEL_NEEDS,
    ),
)
TRIGGERS = (
    *dict.fromkeys(entry.auto_module for entry in ENTRIES),
    *(need.partition(":")[0] for need in MODEL_NEEDS),
    *dict.fromkeys(f"{PACKAGE}.{entry.module}" for entry in ENTRIES),
)

_done: set[Entry] = set()


def register_when_imported() -> None:
    """Arranges for CED to be found by the Auto classes; those that are imported already find it at once."""
    for trigger in TRIGGERS:
        wrapt.register_post_import_hook(_register, trigger)
    wrapt.register_post_import_hook(_register_pipeline, "transformers.pipelines")


def _register(_: ModuleType) -> None:
    for entry in ENTRIES:
        if entry in _done or not _is_ready(entry):
            continue
        _done.add(entry)  # importing the package's module runs this function again
        own = getattr(import_module(f"{PACKAGE}.{entry.module}"), entry.name)
        auto = getattr(sys.modules[entry.auto_module], entry.auto_class)
        if entry.auto_class == "AutoConfig":
            auto.register(own.model_type, own, exist_ok=True)
        else:
            auto.register(_config_class(), own, exist_ok=True)


class AudioClassification:
    """
    The implementation of the task "audio-classification" in transformers' registry of pipelines.

    It makes CED's pipeline for CED models. For others it is the implementation that was there before.
    """

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        config = getattr(kwargs.get("model", args[0] if args else None), "config", None)
        if getattr(config, "model_type", None) != "ced":
            return self._resolve()(*args, **kwargs)
        return import_module(f"{PACKAGE}.pipeline_ced").CedAudioClassificationPipeline(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_before":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._resolve(), name)

    def _resolve(self) -> Any:
        if isinstance(self._before, str):  # transformers imports a pipeline when it is first used
            module, _, name = self._before.rpartition(".")
            return getattr(import_module(module), name)
        return self._before


def _register_pipeline(pipelines: Any) -> None:
    entry = pipelines.PIPELINE_REGISTRY.supported_tasks["audio-classification"]
    if not isinstance(entry["impl"], AudioClassification):
        entry["impl"] = AudioClassification(entry["impl"])


def _is_ready(entry: Entry) -> bool:
    if entry.module == "modeling_ced" and find_spec("torch") is None:
        return False
    is_there = hasattr(sys.modules.get(entry.auto_module), entry.auto_class)
    own = f"{PACKAGE}.{entry.module}:{entry.name}"
    return is_there and not any(map(_is_half_loaded, (own, *entry.needs)))


def _is_half_loaded(need: str) -> bool:
    """Whether a module ("module:attribute") is being imported just now; one that is not there yet can be imported."""
    module, _, name = need.partition(":")
    return module in sys.modules and not hasattr(sys.modules[module], name)


def _config_class() -> Any:
    return import_module(f"{PACKAGE}.configuration_ced").CedConfig
