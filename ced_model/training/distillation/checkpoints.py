# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Chooses and averages checkpoints of a distillation."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...messages import printable
from ..run_folder import checkpoint_path, find_checkpoints

LOSS = "eval_bce"  # the metric for the choice of checkpoints


def choose_checkpoints(folder: Path, log_history: Sequence[Mapping[str, Any]], number: int) -> tuple[int, ...]:
    """The steps of the best checkpoints by held-out loss, best first; without losses, those of the last ones."""
    losses = {int(entry["step"]): float(entry[LOSS]) for entry in log_history if LOSS in entry}
    steps = [step for step, is_whole in find_checkpoints(folder).items() if is_whole]
    return tuple(sorted(steps, key=lambda step: (losses.get(step, float("inf")), -step))[:number])


class KeepBest(TrainerCallback):
    """Removes checkpoints that are neither among the best nor the last one."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        kept = {*choose_checkpoints(self.folder, state.log_history, self.number), state.global_step}
        for step in find_checkpoints(self.folder):
            if step not in kept:
                shutil.rmtree(checkpoint_path(self.folder, step), ignore_errors=True)


def average_checkpoints(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """
    The mean of the checkpoints' weights, summed in float64, in their original dtypes.

    The running variance of a batch normalisation becomes that of all batches together: the mean of the variances plus
    the variance of the means. Counters become their maximum.

    Raises:
        ValueError: if the weights of a checkpoint are not finite.
    """
    states = [load_file(checkpoint / "model.safetensors") for checkpoint in checkpoints]
    for checkpoint, state in zip(checkpoints, states, strict=True):
        for name, tensor in state.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{checkpoint}: {printable(name)} is not finite: remove this checkpoint and resume.")
    averaged = {}
    for name, first in states[0].items():
        tensors = [state[name] for state in states]
        if not first.is_floating_point():
            averaged[name] = torch.stack(tensors).amax(dim=0)
            continue
        mean = torch.stack(tensors).double().mean(dim=0)
        if name.endswith(".running_var"):
            means = torch.stack([state[name.removesuffix("var") + "mean"] for state in states])
            mean += means.double().var(dim=0, correction=0)
        averaged[name] = mean.to(first.dtype)
    return averaged
