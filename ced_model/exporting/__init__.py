# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports: folders with a verified model for another runtime, and a README.md with example code."""

from .export import ExportReport, export_model
from .programs import LoadedExport, load_export
from .verification import Check, VerificationError

__all__ = ["Check", "ExportReport", "LoadedExport", "VerificationError", "export_model", "load_export"]
