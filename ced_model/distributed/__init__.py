# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Tagging in shards on a Ray cluster, with inputs and outputs on any file system."""

from .tagging import RunObserver as RunObserver
from .tagging import tag_on_ray as tag_on_ray
