# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders for other programs: a model with its front end inside, verified, and a README.md with code that runs it."""

from .export import ExportReport, export_model
from .programs import LoadedExport, load_export
from .verification import Check, VerificationError

__all__ = ["Check", "ExportReport", "LoadedExport", "VerificationError", "export_model", "load_export"]
