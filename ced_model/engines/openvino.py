# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU."""

from typing import Any

import numpy as np
import openvino

from ..forking import use_before_fork_only
from ..model_folder import ModelFolder
from ..onnx_graph import EMBEDDINGS, PROBABILITIES, STEPS, build_graph
from . import CpuEngine, EngineError, Outputs, one_line_error

# Without this hint, OpenVINO computes in bfloat16 on processors that support it.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class OpenVinoEngine(CpuEngine):
    """
    Runs the graph of `onnx_graph`, with the weights inside, since OpenVINO cannot read them by offset.

    Raises:
        EngineError: if OpenVINO does not support the model.
        ForkError: in a process that was forked after OpenVINO was used.
    """

    name = "openvino"

    def run(self, log_mels: np.ndarray, is_alone: bool) -> Outputs:
        compiled = self._opened.get(1 if is_alone else self.num_threads)
        # One request per call, for thread safety.
        results = compiled.create_infer_request().infer([np.ascontiguousarray(log_mels)], share_inputs=True)
        return Outputs(
            *(results[name] for name in (PROBABILITIES, EMBEDDINGS, *[STEPS] * self.model.settings.has_steps))
        )

    def _open(self, num_streams: int) -> openvino.CompiledModel:
        use_before_fork_only("OpenVINO")
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if num_streams > 1 else "LATENCY",
            "NUM_STREAMS": num_streams,
            "INFERENCE_NUM_THREADS": self.num_threads,
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.compute_type],
        }
        # A first tensor, since OpenVINO's NumPy bindings can deadlock if two threads create the first one concurrently
        # (one waits for the GIL, and the other, which has it, for the first).
        _ = openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data
        try:
            return openvino.Core().compile_model(read_model(self.model, self.compute_type), "CPU", config)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot open {self.model.name}: {one_line_error(error)}") from error


def read_model(model: ModelFolder, compute_type: str) -> openvino.Model:
    """Reads a model for OpenVINO's compiler."""
    if compute_type == "int8":
        from ..quantization import cached_onnx

        graph = cached_onnx(model)
    else:
        graph = build_graph(model.settings, model.tensors, inline=True).SerializeToString()
    return openvino.Core().read_model(graph)
