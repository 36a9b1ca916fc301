# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on labelled clips, with transformers' `Trainer`."""

from typing import TYPE_CHECKING

import lazy_loader

from .. import check_installed

if TYPE_CHECKING:
    from .options import FinetuningOptions as FinetuningOptions
    from .run import Finetuned as Finetuned
    from .run import finetune as finetune

check_installed("fine-tuning")

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"options": ["FinetuningOptions"], "run": ["Finetuned", "finetune"]}
)
