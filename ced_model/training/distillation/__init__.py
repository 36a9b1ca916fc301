# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Consistent ensemble distillation (arXiv 2308.11957): teachers' outputs are stored under seeded augmentation, and a
student learns from the store under exactly the same augmentation, without labels."""

from importlib.util import find_spec

if any(find_spec(package) is None for package in ("accelerate", "datasets")):
    raise ImportError('distillation needs accelerate and datasets: pip install "ced_model[train]"')
