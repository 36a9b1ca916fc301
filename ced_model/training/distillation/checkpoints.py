# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: which are whole, which are best, and their average."""

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...messages import printable

LOSS = "eval_bce"  # by which checkpoints are compared


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"


def find_checkpoints(folder: Path) -> dict[int, bool]:
    """The steps of the checkpoints in a folder, in ascending order, and whether each is whole."""
    found = {int(match[1]): path for path in folder.glob("checkpoint-*") if (match := _step(path))}
    return {step: _is_whole(found[step]) for step in sorted(found)}


def _step(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name)


def _is_whole(checkpoint: Path) -> bool:
    """Whether all was written before the process ended; `trainer_state.json` comes last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", "pt"):
            pass
    except (OSError, ValueError, SafetensorError):
        return False
    return all(zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt"))


def _is_sound(checkpoint: Path) -> bool:
    """Whether the checksums in the archives that torch wrote are right; torch does not compare them when it loads."""
    try:
        for name in ("optimizer.pt", "scheduler.pt"):
            with zipfile.ZipFile(checkpoint / name) as archive:
                if archive.testzip() is not None:
                    return False
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return False
    return True


def remove_incomplete(folder: Path) -> int | None:
    """Removes checkpoints that are not whole, or damaged; returns the step of the last one that is left, if any."""
    found = {
        step: is_whole and _is_sound(checkpoint_path(folder, step))
        for step, is_whole in find_checkpoints(folder).items()
    }
    for step, is_whole in found.items():
        if not is_whole:
            shutil.rmtree(checkpoint_path(folder, step))
    return max((step for step, is_whole in found.items() if is_whole), default=None)


def choose_checkpoints(folder: Path, log_history: Sequence[Mapping[str, Any]], number: int) -> tuple[int, ...]:
    """The steps of the best checkpoints by their held-out loss, the best first; without losses those of the last."""
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
    The mean of the checkpoints' weights, added up in float64, in the checkpoints' own dtypes.

    A running variance of a batch normalisation becomes that of all their batches together: the mean of the variances
    plus the variance of the means. Counters become the highest one.

    Raises:
        ValueError: naming the checkpoint, if its weights are not finite.
    """
    states = [load_file(checkpoint / "model.safetensors") for checkpoint in checkpoints]
    for checkpoint, state in zip(checkpoints, states, strict=True):
        for name, tensor in state.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{checkpoint}: {printable(name)} is not finite: remove this checkpoint, and resume.")
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
