# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Training with transformers' `Trainer`: fine-tuning on labelled clips, and distillation without labels."""

from importlib.util import find_spec

PACKAGES = {"accelerate": "accelerate", "datasets": "datasets", "sklearn": "scikit-learn"}


def check_installed(what: str) -> None:
    """Raises an ImportError if a package for training is missing."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ImportError(f'{what} requires {" and ".join(missing)}: pip install "ced_model[train]"')
