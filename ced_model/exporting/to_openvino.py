# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, for Intel's and other processors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset15 as opset
from transformers.exporters import NNCFOpenVINOQuantizer, NNCFQuantizationConfig, OpenVINOConfig, OpenVINOExporter

from .graph import TaggingGraph
from .tracing import GraphInput, calibration_inputs, quiet, trace

MIN_HALF_SIZE = 1024  # elements of what is a matrix and not a bias
RT_INFO = "ced"  # the section of the file's `rt_info` that has the metadata


def write_openvino(
    graph: TaggingGraph,
    graph_input: GraphInput,
    path: Path,
    metadata: Mapping[str, Any],
    calibration: Sequence[np.ndarray] | None,
    in_half: bool,
) -> None:
    """
    Writes the `.xml` and the `.bin` beside it, with `metadata` as `rt_info`; int8 if there is `calibration`, and
    otherwise weights in half precision if `in_half`.
    """
    config = OpenVINOConfig(stateful=False)
    if calibration is not None:
        config.quantizer = BlockQuantizer(calibration_dataset=calibration_inputs(graph_input, calibration))
    program = trace(OpenVINOExporter, config, graph, graph_input)
    if in_half:
        store_constants_in_half(program)
    # The converter leaves open what is known; and a clip that is too long would be looked up beyond the time positions,
    # which OpenVINO takes for zeros.
    length = openvino.Dimension(graph_input.min_length, graph_input.max_length)
    program.reshape(openvino.PartialShape([-1, *graph_input.shape[:-1], length]))
    for key, value in metadata.items():
        program.set_rt_info(value if isinstance(value, str) else json.dumps(value), [RT_INFO, key])
    with quiet():
        openvino.save_model(program, str(path), compress_to_fp16=False)


class BlockQuantizer(NNCFOpenVINOQuantizer):
    """Quantizes the transformer blocks. The mel product, the patches and the head stay float."""

    def quantize(self, model: openvino.Model, sample_inputs: dict[str, Any], export_format: Any) -> openvino.Model:
        import nncf

        operators = model.get_ordered_ops()
        head = [operator for operator in operators if operator.get_type_name() == "MatMul"][-1]
        kept = [operator.get_friendly_name() for operator in [*_up_to_patches(model), head]]
        self.config = NNCFQuantizationConfig(
            subset_size=len(self.calibration_dataset),  # type: ignore[arg-type]
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
            # SmoothQuant, made for large language models, moves ranges from activations to weights: without it the best
            # class of ced-nano stays the same on 99 % of recordings, with it on 95 %.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
            ),
        )
        return super().quantize(model, sample_inputs, export_format)


def store_constants_in_half(model: openvino.Model) -> None:
    """
    Stores all matrices behind the front end in half precision, to be converted when the model is compiled.

    OpenVINO's own compression would take the front end too, whose decibels would be off by far.
    """
    kept = {operator.get_friendly_name() for operator in _up_to_patches(model)}
    for operator in model.get_ordered_ops():
        if operator.get_type_name() != "Constant" or operator.get_friendly_name() in kept:
            continue
        if operator.get_element_type() == openvino.Type.f32 and operator.data.size >= MIN_HALF_SIZE:
            half = opset.constant(operator.data.astype(np.float16))
            operator.output(0).replace(opset.convert(half, "f32").output(0))


def _up_to_patches(model: openvino.Model) -> list[openvino.Node]:
    """The front end, the normalisation and the patch embedding, which is the only convolution."""
    patches = next(operator for operator in model.get_ordered_ops() if operator.get_type_name() == "Convolution")
    return [*_upstream(patches), patches]


def _upstream(operator: openvino.Node) -> list[openvino.Node]:
    """All operators that the inputs of `operator` come from."""
    found: dict[str, openvino.Node] = {}
    waiting = [operator]
    while waiting:
        for source in waiting.pop().input_values():
            node = source.get_node()
            if node.get_friendly_name() not in found:
                found[node.get_friendly_name()] = node
                waiting.append(node)
    return list(found.values())
