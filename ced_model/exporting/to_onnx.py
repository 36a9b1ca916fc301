# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ONNX, for ONNX Runtime and all that reads ONNX."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig

from .graph import TaggingGraph
from .tracing import GraphInput, calibration_inputs, quiet, trace

SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes which modules a node comes from
BLOCKS = "'model.encoder.blocks."


def write_onnx(
    graph: TaggingGraph,
    graph_input: GraphInput,
    path: Path,
    metadata: Mapping[str, Any],
    calibration: Sequence[np.ndarray] | None,
) -> None:
    """Writes one file, weights included, with `metadata` as its `metadata_props`; int8 if there is `calibration`."""
    config = OnnxConfig()
    if calibration is not None:
        static = OnnxRuntimeStaticConfig(per_channel=True, op_types_to_quantize=["MatMul"])
        config.quantizer = BlockQuantizer(static, calibration_inputs(graph_input, calibration))
    program = trace(OnnxExporter, config, graph, graph_input)
    forget_origin(program)
    program.producer_name = "ced_model"
    program.metadata_props.clear()  # a quantizer's
    program.metadata_props.update(
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    )
    name_dimensions(program, graph_input)
    with quiet():
        onnx_ir.save(program, path)


class BlockQuantizer(OnnxRuntimeQuantizer):
    """Quantizes the linear layers of the transformer blocks. The mel product, the patches and the head stay float."""

    def quantize(self, model: onnx_ir.Model, sample_inputs: dict[str, Any], export_format: Any) -> onnx_ir.Model:
        names = [
            str(node.name)
            for node in model.graph
            if node.op_type == "MatMul"
            and BLOCKS in node.metadata_props.get(SCOPES, "")
            and node.inputs[1] is not None
            and node.inputs[1].is_initializer()
        ]
        self.config = replace(self.config, nodes_to_quantize=names)
        return super().quantize(model, sample_inputs, export_format)


def forget_origin(program: onnx_ir.Model) -> None:
    """Removes the notes on the source code of each node: they name folders of this machine, and are large."""
    program.graph.metadata_props.clear()
    for node in program.graph.all_nodes():
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
    for value in [*program.graph.inputs, *program.graph.initializers.values()]:
        value.metadata_props.clear()


def name_dimensions(program: onnx_ir.Model, graph_input: GraphInput) -> None:
    """Calls the dynamic dimensions of the input, which have the names of symbols, batch and by the input's length."""
    shape = program.graph.inputs[0].shape
    assert shape is not None
    names = {str(shape[0]): "batch", str(shape[-1]): graph_input.length_name}
    nodes = program.graph.all_nodes()
    for value in [*program.graph.inputs, *(output for node in nodes for output in node.outputs)]:
        if value.shape is not None:
            value.shape = onnx_ir.Shape(
                [dim if isinstance(dim, int) else _renamed(dim.value, names) for dim in value.shape]
            )


def _renamed(expression: str | None, names: Mapping[str, str]) -> str | None:
    if expression is None:
        return None
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), expression)
