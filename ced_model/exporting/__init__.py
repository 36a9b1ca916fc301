# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports CED to other runtimes: the front end inside, verified, with what it needs to be run beside it."""

from .export import ExportReport, export_model
from .verification import Check, VerificationError

__all__ = ["Check", "ExportReport", "VerificationError", "export_model"]
