# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Tagging on the nodes of a Ray cluster, from and to any file system, shard by shard."""

from .tagging import RunObserver as RunObserver
from .tagging import tag_on_ray as tag_on_ray
