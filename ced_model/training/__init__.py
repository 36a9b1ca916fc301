# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Training with transformers' `Trainer`: fine-tuning on labelled clips, and distillation without labels."""

from ..packages import require


def check_installed(what: str) -> None:
    """Raises an ImportError of one line if a package that training needs is missing."""
    require(("accelerate", "datasets", "sklearn"), what)
