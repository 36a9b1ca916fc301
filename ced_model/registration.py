# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Registers CED with the Auto classes and pipelines of transformers as soon as transformers is imported.

This file never imports transformers, which takes seconds and is not needed for tagging. Instead, hooks run after the
import of some of its modules (`wrapt.register_post_import_hook`). These modules import each other while they are half
loaded, so a hook returns early until everything that it needs is available, and is tried again after the next module.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import wrapt

from .custom_code import AUTO_MAP, EXTRACTOR_AUTO_MAP  # checks the version of transformers

PACKAGE = __name__.rpartition(".")[0]
# The class of this package for each Auto class, such as "modeling_ced.CedModel".
PLACES = {**AUTO_MAP, **EXTRACTOR_AUTO_MAP}
# Imports of modeling_ced from modules of transformers that import the Auto classes themselves.
MODEL_NEEDS = {
    "transformers.modeling_layers": "GradientCheckpointingLayer",
    "transformers.modeling_utils": "PreTrainedModel",
    "transformers.masking_utils": "create_bidirectional_mask",
    "transformers.core_model_loading": "WeightConverter",
}

_done: set[str] = set()


def register_when_imported() -> None:
    """Registers CED with the Auto classes: now for those that are imported already, otherwise on their import."""
    modules = dict.fromkeys(place.partition(".")[0] for place in PLACES.values())
    for trigger in (*map(_auto_module, modules), *MODEL_NEEDS, *(f"{PACKAGE}.{module}" for module in modules)):
        wrapt.register_post_import_hook(_register, trigger)
    wrapt.register_post_import_hook(_register_pipeline, "transformers.pipelines")


def _auto_module(module: str) -> str:
    return f"transformers.models.auto.{module.replace('_ced', '_auto')}"


def _register(imported: ModuleType) -> None:
    for auto_class, place in PLACES.items():
        module, _, name = place.partition(".")
        if auto_class in _done or not _is_ready(auto_class, module, name):
            continue
        _done.add(auto_class)  # before the import, which runs this function again
        own = getattr(import_module(f"{PACKAGE}.{module}"), name)
        config = import_module(f"{PACKAGE}.configuration_ced").CedConfig
        key = config.model_type if own is config else config
        getattr(sys.modules[_auto_module(module)], auto_class).register(key, own, exist_ok=True)


def _is_ready(auto_class: str, module: str, name: str) -> bool:
    needs = {f"{PACKAGE}.{module}": name}
    if module == "modeling_ced":
        needs |= MODEL_NEEDS
        if find_spec("torch") is None:
            return False
    # A module that is not imported yet can be imported; one without its attribute is half loaded.
    is_half_loaded = any(need in sys.modules and not hasattr(sys.modules[need], needs[need]) for need in needs)
    return hasattr(sys.modules.get(_auto_module(module)), auto_class) and not is_half_loaded


class AudioClassification:
    """
    The implementation of the task "audio-classification" in transformers' registry of pipelines.

    It creates CED's pipeline for CED models, and uses the original implementation for others.
    """

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        config = getattr(kwargs.get("model", args[0] if args else None), "config", None)
        if getattr(config, "model_type", None) != "ced":
            return self._resolve()(*args, **kwargs)
        return import_module(f"{PACKAGE}.pipeline_ced").CedAudioClassificationPipeline(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_before":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self._resolve(), name)

    def _resolve(self) -> Any:
        if isinstance(self._before, str):  # transformers imports pipelines lazily
            module, _, name = self._before.rpartition(".")
            return getattr(import_module(module), name)
        return self._before


def _register_pipeline(pipelines: Any) -> None:
    entry = pipelines.PIPELINE_REGISTRY.supported_tasks["audio-classification"]
    if not isinstance(entry["impl"], AudioClassification):
        entry["impl"] = AudioClassification(entry["impl"])
