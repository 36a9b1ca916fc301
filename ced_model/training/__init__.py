# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Training with transformers' `Trainer`: fine-tuning on labelled clips, and distillation without labels."""
