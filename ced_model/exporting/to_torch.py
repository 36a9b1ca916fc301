# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""torch.export's own format, for torch without transformers and this package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.exporters import DynamoConfig, DynamoExporter

from .graph import TaggingGraph
from .tracing import GraphInput, quiet, trace

METADATA = "metadata.json"  # among the `extra_files` of the program


def write_torch(graph: TaggingGraph, graph_input: GraphInput, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes one file, with `metadata` as JSON among its extra files."""
    program = trace(DynamoExporter, DynamoConfig(), graph, graph_input)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names folders of this machine
    with quiet():
        torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata, ensure_ascii=False)})
