# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Computing somebody else's model in evaluation mode, and checking its weights."""

import math
from typing import Any, TypeVar

import torch
from torch import nn

from .messages import printable

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def in_evaluation_mode(model: AnyModule) -> AnyModule:
    """
    The model in evaluation mode, without touching the model itself.

    Returns a second tree of modules with the same parameters, buffers and hooks, so that other threads may compute with
    the model, or switch it to training, at the same time. It takes some 0.3 ms and no memory to speak of.

    Raises:
        ValueError: if the model is in training mode and was compiled, or given another `forward`: such a model can only
            be computed in the mode that it is in.
    """
    try:
        return _evaluating(model, {})
    except _BoundError:
        if any(module.training for module in model.modules()):
            raise ValueError(
                "`model` is in training mode, and was compiled or given another `forward`: call `model.eval()` first."
            ) from None
        return model


class _BoundError(Exception):
    """Calling a module calls something that refers to this very object."""


def _evaluating(module: Any, done: dict[int, Any]) -> Any:
    if (twin := done.get(id(module))) is None:
        attributes = vars(module)
        if "forward" in attributes or attributes.get("_compiled_call_impl") is not None:
            raise _BoundError
        twin = done[id(module)] = object.__new__(type(module))
        children = {
            name: None if child is None else _evaluating(child, done)
            for name, child in attributes["_modules"].copy().items()
        }
        twin.__dict__ = {**attributes, "_modules": children, "training": False}
    return twin


def check_weights(model: nn.Module) -> None:
    """Raises a ValueError that names a tensor, if weights or statistics of the model are NaN or infinite."""
    for name, tensor in model.state_dict().items():
        # The sum is many times cheaper than looking at each value, and finite unless one of them is not (or huge).
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        if not math.isfinite(tensor.float().sum().item()) and not torch.isfinite(tensor.float()).all():
            raise ValueError(
                f"The model's weights are damaged: {printable(name)} holds NaN or infinity. Train it again, or load"
                " another copy."
            )
