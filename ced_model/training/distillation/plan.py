# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Data, student and `TrainingArguments` of a distillation, and its result."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ...messages import one_line
from ..shared_trainer import loading_arguments
from .inputs import Split, StoredRows
from .options import DistillationArguments
from .store import Store
from .student import Student

MIN_LR_RATE = 0.1  # the cosine ends at a tenth of the learning rate (paper, section 3)
WARMUP = 0.05  # of all steps
# Soft targets with new augmentation in each epoch cause little overfitting, so weight decay only has to limit the size
# of weights: at a mean learning rate of 5e-4, 10,000 steps shrink a weight without gradient by 5 %.
WEIGHT_DECAY = 0.01
LOG_STEPS = 50


@dataclass(frozen=True)
class Distillation:
    """
    A trained student.

    Attributes:
        folder: The model folder; its `README.md` describes the training.
        parameters: Number of weights.
        steps: Number of optimiser steps.
        averaged: The steps of the checkpoints that were averaged, best first.
        metrics: Metrics of the averaged weights on the held-out files, see `measure_agreement`; empty without such
            files.
    """

    folder: Path
    parameters: int
    steps: int
    averaged: tuple[int, ...]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """
    The data and the student of a distillation.

    Attributes:
        store: The chunks.
        rows: The teachers' outputs.
        audio_root: The folder that the chunks' paths are relative to.
        student: The student before training.
        split: The training chunks and the held-out chunks.
        arguments: The options.
        folder: Folder for checkpoints and logs.
    """

    store: Store
    rows: StoredRows
    audio_root: Path
    student: Student
    split: Split
    arguments: DistillationArguments
    folder: Path

    @property
    def holds_out(self) -> bool:
        return len(self.split.held_out) > 0


def make_training_arguments(plan: Plan) -> TrainingArguments:
    """The arguments for `Trainer`; raises a ValueError if transformers rejects a field."""
    arguments = plan.arguments
    strategy = "epoch" if arguments.save_steps is None else "steps"
    fields: dict[str, Any] = {
        **loading_arguments(arguments.workers),
        "output_dir": str(plan.folder),
        "num_train_epochs": plan.store.num_epochs if arguments.epochs is None else arguments.epochs,
        "max_steps": -1 if arguments.max_steps is None else arguments.max_steps,
        "per_device_train_batch_size": arguments.batch_size,
        "per_device_eval_batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "warmup_steps": WARMUP,
        "weight_decay": WEIGHT_DECAY,
        "seed": arguments.seed,
        "report_to": "none",
        "eval_strategy": strategy if plan.holds_out else "no",
        "save_strategy": strategy,
        # By default, processes on a machine without a GPU would not be joined.
        "use_cpu": parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available(),
        "logging_nan_inf_filter": False,
        **arguments.training,
    }
    if arguments.save_steps is not None:
        fields |= {"save_steps": arguments.save_steps, "eval_steps": arguments.save_steps}
    if fields["lr_scheduler_type"] == "cosine_with_min_lr":
        fields.setdefault("lr_scheduler_kwargs", {"min_lr_rate": MIN_LR_RATE})
    interval = arguments.save_steps or _steps_per_epoch(fields, len(plan.split.training))
    fields.setdefault("logging_steps", min(LOG_STEPS, interval))  # at least one training loss per evaluation
    try:
        training = TrainingArguments(**fields)
        for callback in get_reporting_integration_callbacks(training.report_to):
            callback()  # raises an error if its package is missing
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ValueError(f"transformers cannot train with these arguments: {one_line(error)}") from error
    if training.world_size != (launched := int(os.environ.get("WORLD_SIZE", "1"))):
        raise ValueError(f"{launched} processes were launched, but accelerate cannot join them here: run one process.")
    return training


def is_default_schedule(training: TrainingArguments) -> bool:
    """Whether the learning rate follows a cosine to a tenth."""
    kwargs = {"min_lr_rate": MIN_LR_RATE}
    return training.lr_scheduler_type == "cosine_with_min_lr" and training.lr_scheduler_kwargs == kwargs


def _steps_per_epoch(fields: dict[str, Any], num_chunks: int) -> int:
    accumulated = int(fields.get("gradient_accumulation_steps", 1))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return math.ceil(num_chunks / (fields["per_device_train_batch_size"] * accumulated * processes))
