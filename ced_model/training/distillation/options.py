# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""How a student is trained: keyword arguments with the paper's values. Nothing heavy is imported here."""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ...messages import OptionError

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
        `ValueError`: if a value is not possible, or if `training` has a field that does not exist or cannot be set.
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
            self._check(name, self.__dict__[name] is None or self.__dict__[name] >= 1, "at least 1")
        self._check("mixup", 0 <= self.mixup < math.inf, "a number from 0")
        self._check("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0")
        self._check("held_out", 0 <= self.held_out < 1, "a share of the chunks, from 0 to below 1")
        self._check("workers", self.workers is None or self.workers >= 0, "at least 0")
        self._check("seed", 0 <= self.seed < 2**32, "a whole number from 0 to 2³² - 1")
        self._check("leftover", self.leftover in ("zero", "even"), "zero or even")
        if self.epochs is not None:
            self._check("max_steps", self.max_steps is None, "nothing beside `epochs`: both set the end")
        check_training_fields(self.training)

    def _check(self, name: str, is_possible: bool, expected: str) -> None:
        if not is_possible:
            raise OptionError(name, getattr(self, name), expected)


def check_training_fields(names: Iterable[str]) -> None:
    """Raises a ValueError for the first of `names` that `DistillationArguments.training` cannot have."""
    names = list(names)
    if not names:
        return
    from transformers import TrainingArguments

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
