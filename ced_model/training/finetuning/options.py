# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of fine-tuning, without heavy imports, so that they are checked at once."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from ...messages import OptionError
from ...packages import require

ADAPTER_FOLDER = "adapter"  # in the folder of the model
DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class FinetuningOptions:
    """
    Options of fine-tuning.

    Attributes:
        train: The part to train: `"head"`, `"last:K"` (the head, the last K blocks and the final LayerNorm) or `"all"`.
            The statistics of `init_bn` are never trained.
        lora: The rank of LoRA adapters (https://arxiv.org/abs/2106.09685), which are trained instead of the blocks of
            `train` and merged into them at the end; None for none.
        keep_classes: Keep the model's other classes, with unchanged rows of the head. Only with `train="head"`, so that
            their scores do not change.
        epochs: Maximum number of epochs.
        patience: Stop after this number of epochs without improvement; 0 for never.
        batch_size: Clips per device and step.
        learning_rate: Maximum learning rate of the head.
        encoder_learning_rate: Maximum learning rate of the encoder, by default a tenth of that of the head, or the same
            with LoRA.
        class_weights: `"balanced"` gives rare classes more weight in the loss, up to 10 times.
        crop_s: In training, longer clips are cropped at random to this length in seconds, by default the longest input
            of the model (10.12 s).
        mixup: The parameter α of mixup; 0 for none.
        masks: Whether to apply a time mask and a frequency mask to each training clip (SpecAugment).
        validation_share: Share of the clips to hold out if no validation clips are given; 0 for no validation.
        seed: Random seed of the new head, the held-out clips and the training.
        device: `"cpu"`, `"cuda"` or `"mps"`; by default a GPU if there is one.

    Raises:
        OptionError: for an invalid value.
        ImportError: if `lora` is given and peft is not installed.
    """

    train: str = "all"
    lora: int | None = None
    keep_classes: bool = False
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
            raise OptionError("train", self.train, "head, all, or last:K for the last K blocks, such as last:4")
        if self.keep_classes and self.train != "head":
            raise OptionError("train", self.train, "head with `keep_classes`, since the encoder must not change")
        if self.lora is not None and (self.lora < 1 or self.train == "head"):
            raise OptionError("lora", self.lora, "a rank of at least 1, and blocks to train: `train` all or last:K")
        if self.lora is not None:
            require(("peft",), "LoRA")
        for name in ("epochs", "learning_rate", "encoder_learning_rate", "crop_s", "batch_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(name, value, "a number above 0")
        for name in ("patience", "mixup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(name, getattr(self, name), "a number from 0")
        if not 0 <= self.seed < 2**32:
            raise OptionError("seed", self.seed, "a whole number from 0 to 2³² - 1")
        if self.class_weights not in ("none", "balanced"):
            raise OptionError("class_weights", self.class_weights, "balanced or none")
        if not 0 <= self.validation_share < 1:
            raise OptionError("validation_share", self.validation_share, "a share of the clips, from 0 to below 1")
        if self.device not in (None, *DEVICES):
            raise OptionError("device", self.device, "cpu, cuda or mps; CUDA_VISIBLE_DEVICES chooses among GPUs")

    @property
    def num_blocks(self) -> int | None:
        """The K of `"last:K"`."""
        return int(self.train.removeprefix("last:")) if self.train.startswith("last:") else None
