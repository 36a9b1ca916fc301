# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Jobs larger than one machine: files of any file system, shard by shard, on the nodes of a Ray cluster."""
