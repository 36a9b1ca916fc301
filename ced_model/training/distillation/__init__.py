# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Consistent ensemble distillation (arXiv 2308.11957): teachers' outputs are stored under seeded augmentation, and a
student learns from the store under exactly the same augmentation, without labels."""

from .. import check_installed

check_installed("distillation")
