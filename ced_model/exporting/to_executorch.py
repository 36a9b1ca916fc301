# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch with its XNNPACK backend, for phones."""

from pathlib import Path
from typing import Any

import torch
from transformers.exporters import ExecutorchConfig, ExecutorchExporter
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .graph import TaggingGraph
from .tracing import GraphInput, quiet, trace

MAX_BATCH = 8  # the program plans its memory for as many clips


def write_executorch(graph: TaggingGraph, graph_input: GraphInput, path: Path) -> None:
    """Writes one file. It has no room for metadata."""
    ALL_ATTENTION_FUNCTIONS.register("ced_contiguous", contiguous_attention)
    graph.model.set_attn_implementation("ced_contiguous")
    program = trace(ExecutorchExporter, ExecutorchConfig(), graph, graph_input, MAX_BATCH)
    with quiet(), open(path, "wb") as file:
        program.write_to_file(file)


def contiguous_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """
    Attention without a mask, by products of 3-dimensional tensors that lie in memory as their shapes say: at run time
    ExecuTorch's kernels refuse the strides that other implementations leave.
    """
    query, key, value = ((tensor.contiguous().flatten(0, 1)) for tensor in (query * scaling, key, value))
    weights = torch.bmm(query, key.transpose(1, 2)).softmax(dim=-1)
    heads = module.num_attention_heads
    return torch.bmm(weights, value).unflatten(0, (-1, heads)).transpose(1, 2).contiguous(), None
