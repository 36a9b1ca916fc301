# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on labelled clips, with transformers' `Trainer`."""

from importlib.util import find_spec

if any(find_spec(package) is None for package in ("accelerate", "datasets", "sklearn")):
    raise ImportError('fine-tuning needs accelerate, datasets and scikit-learn: pip install "ced_model[train]"')

from .arguments import FinetuningOptions  # noqa: E402
from .run import Finetuned, finetune  # noqa: E402

__all__ = ["Finetuned", "FinetuningOptions", "finetune"]
