# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""How a student is trained: keyword arguments with the paper's values, and what `Trainer` is told of them."""

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from .inputs import Split, StoredRows
from .store import Store
from .student import Student

MIN_LR_RATE = 0.1  # the cosine ends at a tenth of the learning rate (paper, section 3)
WARMUP = 0.05  # of all steps
# Soft targets under an augmentation that is new in every epoch are hard to learn by heart, so it has only to bound the
# weights: at a mean learning rate of 5e-4, 10,000 steps shrink a weight without gradient by 5 %.
WEIGHT_DECAY = 0.01
LOG_STEPS = 50
MAX_WORKERS = 16

# Fields of TrainingArguments that belong to the arguments below, with the names that these have.
OWN_FIELDS = {
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "seed": "seed",
    "data_seed": "seed",
    "report_to": "report_to",
    "dataloader_num_workers": "workers",
    "eval_strategy": "save_steps",
    "eval_steps": "save_steps",
    "save_strategy": "save_steps",
    "save_steps": "save_steps",
    "save_total_limit": "average",
    "output_dir": "output",
    "resume_from_checkpoint": "resume",
}
# Those that would take from a run what it builds upon.
FIXED_FIELDS = frozenset(
    "remove_unused_columns label_names label_smoothing_factor load_best_model_at_end metric_for_best_model"
    " greater_is_better prediction_loss_only include_for_metrics batch_eval_metrics eval_do_concat_batches"
    " eval_on_start eval_delay save_only_model save_on_each_node train_sampling_strategy push_to_hub"
    " auto_find_batch_size restore_callback_states_from_checkpoint ignore_data_skip fsdp fsdp_config deepspeed"
    " parallelism_config do_train do_eval do_predict".split()
)


@dataclass
class DistillationArguments:
    """
    How a student is trained. The defaults are the paper's where it names them.

    Args:
        epochs (`int`, *optional*):
            Times that each chunk is seen, each time as the teachers heard it in another epoch of the store; by default
            as many as the store has. More begin again with the store's first.
        max_steps (`int`, *optional*):
            Ends after so many optimiser steps, in place of `epochs`.
        batch_size (`int`, *optional*, defaults to 32):
            Chunks in a batch of one process.
        learning_rate (`float`, *optional*, defaults to 1e-3):
            The highest, after warm-up; a cosine takes it down to a tenth.
        mixup (`float`, *optional*, defaults to 0.0):
            The parameter α of mixup, where each input is mixed with another one in proportions drawn from Beta(α, α),
            and so are their targets; 0 for none.
        leftover (`str`, *optional*, defaults to `"zero"`):
            What the targets of classes are that the store does not have: `"zero"`, or `"even"`: what the stored
            probabilities lack to a sum of 1 in equal parts, for teachers with a softmax.
        consistent (`bool`, *optional*, defaults to `True`):
            Whether the student hears exactly what the teachers heard. With `False`, for comparison, it draws its own
            augmentation.
        held_out (`float`, *optional*, defaults to 0.05):
            The part of the chunks, in whole files, that the student does not train on; by the loss there checkpoints
            are chosen. With 0 they are the last ones.
        average (`int`, *optional*, defaults to 4):
            Number of best checkpoints whose weights are averaged; also how many are kept.
        save_steps (`int`, *optional*):
            Evaluates and saves every so many steps; by default at the end of each epoch.
        workers (`int`, *optional*):
            Processes that prepare inputs, for each training process; by default one for every two CPUs. With 0 the
            training process does it.
        seed (`int`, *optional*, defaults to 0):
            Of random weights, the order of chunks, dropout and mixup.
        report_to (`str`, *optional*, defaults to `"none"`):
            Where metrics go besides: `"tensorboard"` or another integration of transformers.
        training (`dict[str, Any]`, *optional*):
            Further fields of [`~transformers.TrainingArguments`], such as `bf16` or `gradient_accumulation_steps`. By
            default `warmup_steps` are 5 % of all steps, and AdamW's `weight_decay` is 0.01, for matrices only.

    Raises:
        `ValueError`: if a value is not possible, or if `training` has a field that there is not or that is not free.
    """

    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    mixup: float = 0.0
    leftover: Literal["zero", "even"] = "zero"
    consistent: bool = True
    held_out: float = 0.05
    average: int = 4
    save_steps: int | None = None
    workers: int | None = None
    seed: int = 0
    report_to: str = "none"
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "batch_size", "average", "save_steps"):
            _check(name, getattr(self, name), lambda value: value is None or value >= 1, "at least 1")
        _check("mixup", self.mixup, lambda value: 0 <= value < math.inf, "at least 0")
        _check("learning_rate", self.learning_rate, lambda value: 0 < value < math.inf, "above 0")
        _check("held_out", self.held_out, lambda value: 0 <= value < 1, "at least 0 and below 1")
        _check("workers", self.workers, lambda value: value is None or value >= 0, "at least 0")
        _check("seed", self.seed, lambda value: 0 <= value < 2**32, "at least 0 and below 2³²")
        if self.leftover not in ("zero", "even"):
            raise ValueError(f'`leftover` must be "zero" or "even", got {self.leftover!r}.')
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("`epochs` and `max_steps` both say when to end: give one of them.")
        check_training_fields(self.training)


def _check(name: str, value: Any, is_possible: Any, wanted: str) -> None:
    if not is_possible(value):
        raise ValueError(f"`{name}` must be {wanted}, got {value}.")


def check_training_fields(names: Iterable[str]) -> None:
    """Raises a ValueError for the first of `names` that `DistillationArguments.training` cannot have."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for name in names:
        if name in OWN_FIELDS:
            raise ValueError(f"TrainingArguments.{name} is set by `{OWN_FIELDS[name]}`.")
        if name in FIXED_FIELDS:
            raise ValueError(f"TrainingArguments.{name} cannot be set for distillation.")
        if name not in known:
            close = difflib.get_close_matches(name, known - FIXED_FIELDS - set(OWN_FIELDS))
            hint = f"; did you mean {' or '.join(close)}?" if close else "."
            raise ValueError(f"TrainingArguments has no field {name}{hint}")


@dataclass(frozen=True)
class Plan:
    """
    What is trained on what, and how.

    Attributes:
        store: The chunks.
        rows: What the teachers said of them.
        audio_root: The folder that the chunks' paths are relative to.
        student: The model as it begins.
        split: Which chunks are trained on, and which are held out.
        arguments: How to train.
        folder: For checkpoints and logs.
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
    """What `Trainer` is told; raises a ValueError with one line if transformers refuses a field."""
    arguments = plan.arguments
    strategy = "epoch" if arguments.save_steps is None else "steps"
    workers = _default_workers() if arguments.workers is None else arguments.workers
    fields: dict[str, Any] = {
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
        "report_to": arguments.report_to,
        "eval_strategy": strategy if plan.holds_out else "no",
        "save_strategy": strategy,
        # By default processes on a machine without a GPU would not know of each other.
        "use_cpu": parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available(),
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        **arguments.training,
    }
    if arguments.save_steps is not None:
        fields |= {"save_steps": arguments.save_steps, "eval_steps": arguments.save_steps}
    if fields["lr_scheduler_type"] == "cosine_with_min_lr":
        fields.setdefault("lr_scheduler_kwargs", {"min_lr_rate": MIN_LR_RATE})
    interval = arguments.save_steps or _steps_per_epoch(fields, len(plan.split.training))
    fields.setdefault("logging_steps", min(LOG_STEPS, interval))  # each evaluation comes with a training loss
    try:
        training = TrainingArguments(**fields)
        for callback in get_reporting_integration_callbacks(training.report_to):
            callback()  # it looks for its package
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ValueError(f"transformers cannot train like this: {' '.join(str(error).split())}") from error
    if training.world_size != (launched := int(os.environ.get("WORLD_SIZE", "1"))):
        raise ValueError(f"{launched} processes were launched, but accelerate cannot join them here: run one process.")
    return training


def is_default_schedule(training: TrainingArguments) -> bool:
    """Whether the learning rate goes by a cosine to a tenth."""
    kwargs = {"min_lr_rate": MIN_LR_RATE}
    return training.lr_scheduler_type == "cosine_with_min_lr" and training.lr_scheduler_kwargs == kwargs


def _steps_per_epoch(fields: dict[str, Any], num_chunks: int) -> int:
    accumulated = int(fields.get("gradient_accumulation_steps", 1))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return math.ceil(num_chunks / (fields["per_device_train_batch_size"] * accumulated * processes))


def _default_workers() -> int:
    """Half of this process's CPUs."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(1, cpus // (2 * processes)), MAX_WORKERS)
