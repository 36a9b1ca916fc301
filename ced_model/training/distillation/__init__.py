# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Consistent ensemble distillation (arXiv 2308.11957): the outputs of teachers are stored for inputs with seeded
augmentation, and a student is trained on exactly the same inputs, without labels.
"""

from .. import check_installed

check_installed("distillation")
