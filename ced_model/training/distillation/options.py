# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of distillation, without heavy imports."""

import math
from dataclasses import dataclass, field
from typing import Any

from ...messages import OptionError, UsageError

# Fields of TrainingArguments that distillation sets, most of them from the arguments below.
FIXED_FIELDS = frozenset(
    "num_train_epochs max_steps per_device_train_batch_size learning_rate seed data_seed dataloader_num_workers"
    " eval_strategy eval_steps save_strategy save_steps save_total_limit output_dir resume_from_checkpoint"
    " remove_unused_columns label_names label_smoothing_factor load_best_model_at_end metric_for_best_model"
    " greater_is_better prediction_loss_only include_for_metrics batch_eval_metrics eval_do_concat_batches"
    " eval_on_start eval_delay save_only_model save_on_each_node train_sampling_strategy push_to_hub"
    " auto_find_batch_size restore_callback_states_from_checkpoint ignore_data_skip fsdp fsdp_config deepspeed"
    " parallelism_config do_train do_eval do_predict".split()
)


@dataclass
class DistillationArguments:
    """
    Options for training a student. Defaults are those of the paper, if it has them.

    Args:
        epochs: Number of times each chunk is used, with the inputs of the store's epochs in turn; by default the number
            of epochs in the store.
        max_steps: Number of optimiser steps, instead of `epochs`.
        batch_size: Chunks per batch and process.
        learning_rate: Maximum learning rate, after warm-up; it decreases to a tenth by a cosine.
        mixup: The parameter α of mixup, which mixes inputs and targets in proportions drawn from Beta(α, α); 0 for
            none.
        consistent: Whether the student gets exactly the same inputs as the teachers. With `False`, for comparison, it
            gets different augmentation.
        held_out: Share of the chunks (in complete files) that is not used for training. Checkpoints are chosen by the
            loss on them; with 0, the last ones are used.
        average: Number of best checkpoints that are kept, and whose weights are averaged.
        save_steps: Number of steps between evaluations and checkpoints, by default an epoch.
        workers: Data loading processes per training process, by default one per two CPUs. With 0, the training process
            loads the data.
        seed: Seed of random weights, the order of chunks, dropout and mixup.
        training: Further fields of [`~transformers.TrainingArguments`], such as `bf16`, `gradient_accumulation_steps`
            or `report_to` (by default `"none"`). By default `warmup_steps` are 5 % of all steps, and AdamW's
            `weight_decay` is 0.01, for matrices only.

    Raises:
        `ValueError`: for an invalid value, or a field in `training` that cannot be set.
    """

    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    mixup: float = 0.0
    consistent: bool = True
    held_out: float = 0.05
    average: int = 4
    save_steps: int | None = None
    workers: int | None = None
    seed: int = 0
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "batch_size", "average", "save_steps"):
            self._check(name, self.__dict__[name] is None or self.__dict__[name] >= 1, "at least 1")
        self._check("mixup", 0 <= self.mixup < math.inf, "a number from 0")
        self._check("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0")
        self._check("held_out", 0 <= self.held_out < 1, "a share of the chunks, from 0 to below 1")
        self._check("workers", self.workers is None or self.workers >= 0, "at least 0")
        self._check("seed", 0 <= self.seed < 2**32, "a whole number from 0 to 2³² - 1")
        if self.epochs is not None:
            self._check("max_steps", self.max_steps is None, "None with `epochs`, since both set the end")
        for name in self.training:
            if name in FIXED_FIELDS:
                raise UsageError(
                    f"TrainingArguments.{name} cannot be set; use the distillation option for it, if there is one."
                )

    def _check(self, name: str, is_possible: bool, expected: str) -> None:
        if not is_possible:
            raise OptionError(name, getattr(self, name), expected)
