# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of small nodes for `ray.cluster_utils.Cluster`, with fast detection of dead nodes."""

from typing import Any

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
HEAD = NODE | {"_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}}
