# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch with its XNNPACK backend, for phones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.exporters import ExecutorchConfig, ExecutorchExporter, PT2EQuantizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .graph import TaggingGraph
from .tracing import GraphInput, calibration_inputs, quiet, trace

MAX_BATCH = 8  # the program plans its memory for as many clips


def write_executorch(
    graph: TaggingGraph, graph_input: GraphInput, path: Path, calibration: Sequence[np.ndarray] | None
) -> None:
    """Writes one file, which has no room for metadata; int8 if there is `calibration`."""
    ALL_ATTENTION_FUNCTIONS.register("ced_contiguous", contiguous_attention)
    graph.model.set_attn_implementation("ced_contiguous")
    config = ExecutorchConfig()
    if calibration is not None:
        config.quantizer = PT2EQuantizer(_block_quantizer(), calibration_inputs(graph_input, calibration))
    program = trace(ExecutorchExporter, config, graph, graph_input, MAX_BATCH)
    with quiet(), open(path, "wb") as file:
        program.write_to_file(file)


def _block_quantizer() -> Any:
    """Quantizes the transformer blocks. The front end, the patches and the head stay float."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    class BlockQuantizer(xnnpack_quantizer.XNNPACKQuantizer):
        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            model = super().annotate(model)
            # By names of modules it would take what joins tensors anywhere, such as the frames of the front end.
            for node in model.graph.nodes:
                modules = node.meta.get("nn_module_stack", {}).values()
                if not any(name.startswith("model.encoder.blocks.") for name, _ in modules):
                    node.meta.pop(Q_ANNOTATION_KEY, None)
            return model

    return BlockQuantizer().set_global(xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True))


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
