# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""How to fine-tune: options, and what they mean to transformers' `Trainer`."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

SELECTION = "selection"  # the figure by which Trainer chooses the best epoch
MAX_WORKERS = 8


@dataclass(frozen=True)
class FinetuningOptions:
    """
    How to fine-tune.

    Attributes:
        train: What is trained: `"head"`, `"last:K"` (the head, the last K blocks and the final LayerNorm) or `"all"`.
            The statistics of `init_bn` stay as they are in any case.
        lora: The rank of LoRA adapters (https://arxiv.org/abs/2106.09685) that are trained in place of the blocks of
            `train`, and merged into them at the end; None for none.
        epochs: At most so many.
        patience: Stop when so many epochs have brought nothing better; 0 for never.
        batch_size: Clips per device and step.
        learning_rate: The highest one of the head.
        encoder_learning_rate: The highest one of the encoder; by default a tenth of the head's, and with LoRA the same.
        class_weights: `"balanced"` gives rare classes more weight in the loss, up to 10 times, see [`class_weights`].
        crop_s: Longer clips are cut to so many seconds, at random, in training; by default what the model looks at in
            one piece (10.12 s).
        mixup: The parameter α of mixup; 0 for none.
        masks: Whether to mask a part in time and one in frequency of each training clip (SpecAugment).
        validation_share: Of the clips, held out for validation if there are no others; 0 for no validation.
        seed: Of the new head, the held-out clips, and all that is random in training.
        device: `"cpu"`, `"cuda"` or `"mps"`; by default a GPU if there is one.

    Raises:
        ValueError: if a value is not possible; the message names it.
    """

    train: str = "all"
    lora: int | None = None
    epochs: float = 20
    patience: int = 5
    batch_size: int = 16
    learning_rate: float = 1e-3
    encoder_learning_rate: float | None = None
    class_weights: Literal["none", "balanced"] = "none"
    crop_s: float | None = None
    mixup: float = 0.0
    masks: bool = False
    validation_share: float = 0.1
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"head|all|last:[1-9]\d*", self.train):
            raise ValueError(f"`train={self.train!r}` must be 'head', 'all', or 'last:K' for the last K blocks.")
        if self.lora is not None and (self.lora < 1 or self.train == "head"):
            problem = "is for the blocks of the encoder" if self.lora >= 1 else "must be a rank of at least 1"
            raise ValueError(f"`lora={self.lora}` {problem}: give it with `train` 'all' or 'last:K'.")
        for name in ("epochs", "learning_rate", "encoder_learning_rate", "crop_s", "batch_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}={value:g}` must be a number above 0.")
        for name in ("patience", "mixup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}={getattr(self, name):g}` must be a number from 0 on.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed={self.seed}` must be a whole number from 0 to 2³² - 1.")
        if self.class_weights not in ("none", "balanced"):
            raise ValueError(f"`class_weights={self.class_weights!r}` must be 'none' or 'balanced'.")
        if not 0 <= self.validation_share < 1:
            raise ValueError(
                f"`validation_share={self.validation_share:g}` must be a part of the clips, from 0 to below 1."
            )

    @property
    def num_blocks(self) -> int | None:
        """The K of `"last:K"`."""
        return int(self.train.removeprefix("last:")) if self.train.startswith("last:") else None


def make_arguments(
    options: FinetuningOptions,
    checkpoints: Path,
    has_validation: bool,
    overrides: Mapping[str, Any],
) -> TrainingArguments:
    if "output_dir" in overrides:
        raise ValueError("`training_arguments` has output_dir, which is made of the name of the model: leave it out.")
    workers = overrides.get("dataloader_num_workers", _default_workers())
    values: dict[str, Any] = {
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # of all
        "weight_decay": 0.01,
        "eval_strategy": "epoch" if has_validation else "no",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,  # the best and the last
        "load_best_model_at_end": has_validation,
        "metric_for_best_model": SELECTION if has_validation else None,
        "greater_is_better": True if has_validation else None,
        "report_to": ["tensorboard"] if find_spec("tensorboard") else [],
        "seed": options.seed,
        "use_cpu": options.device == "cpu",
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "dataloader_pin_memory": options.device != "cpu" and torch.cuda.is_available(),
        "train_sampling_strategy": "group_by_length",
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "ddp_find_unused_parameters": False,
        "restore_callback_states_from_checkpoint": True,  # the patience that is left
    }
    try:
        return TrainingArguments(output_dir=str(checkpoints), **{**values, **overrides})
    except TypeError as error:  # an unknown name
        raise ValueError(f"`training_arguments`: {error}") from error


def _default_workers() -> int:
    """Half of this process's CPUs: workers that take training's own slow it down by far more than they help."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(MAX_WORKERS, max(1, cpus // (2 * processes)))


def check_device(device: str | None) -> None:
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device is None or available.get(device):
        return
    if device not in available:
        raise ValueError(
            f"`device={device!r}` must be 'cpu', 'cuda' or 'mps'; the variable CUDA_VISIBLE_DEVICES chooses among GPUs."
        )
    raise ValueError(f"`device={device!r}`: there is no such device here.")
