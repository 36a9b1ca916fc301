# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts original CED checkpoints and Hub repositories to verified model folders, and uploads them to the Hub."""

from .checkpoint import ConversionError as ConversionError
from .convert import Conversion as Conversion
from .convert import convert_checkpoint as convert_checkpoint
from .upload import check_repo_id as check_repo_id
from .upload import push_to_hub as push_to_hub
