# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU."""

import numpy as np
import onnxruntime

from ..onnx_graph import EMBEDDINGS, PROBABILITIES, STEPS, build_graph
from . import CpuEngine, EngineError, Outputs, one_line_error

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
ERRORS_ONLY = 3  # severity of ONNX Runtime's log


class OnnxEngine(CpuEngine):
    """
    The graph that `onnx_graph` writes, over the weights where they lie.

    Raises:
        EngineError: if ONNX Runtime does not take the model.
    """

    name = "onnx"

    def run(self, log_mels: np.ndarray, is_alone: bool) -> Outputs:
        session = self._opened.get(self.num_threads if is_alone else 1)
        names = [PROBABILITIES, EMBEDDINGS, *[STEPS] * self.model.settings.has_steps]
        return Outputs(*session.run(names, {"log_mel": np.ascontiguousarray(log_mels)}))

    def _open(self, num_threads: int) -> onnxruntime.InferenceSession:
        weights_folder = None
        if self.compute_type == "int8":
            from ..quantization import cached_onnx

            graph = cached_onnx(self.model)
        else:
            in_memory = self.model.path is None
            weights_folder = None if in_memory else self.model.weights_folder
            graph = build_graph(self.model.settings, self.model.tensors, inline=in_memory).SerializeToString()
        try:
            return open_session(graph, num_threads, weights_folder)
        except Exception as error:  # of many kinds, all of ONNX Runtime's own
            raise EngineError(f"ONNX Runtime cannot open {self.model.name}: {one_line_error(error)}") from error


def open_session(
    graph: str | bytes, num_threads: int, weights_folder: str | None = None
) -> onnxruntime.InferenceSession:
    """
    A session on the CPU.

    Args:
        graph: A file, or its content.
        num_threads: 0 for what ONNX Runtime chooses.
        weights_folder: Where the weights are that the graph points at, links resolved: ONNX Runtime refuses links that
            lead elsewhere, as those in the Hub's cache do.
    """
    options = onnxruntime.SessionOptions()
    # Calls run on the thread that they come from and, in a session of several threads, on the session's own.
    options.intra_op_num_threads = num_threads
    options.log_severity_level = ERRORS_ONLY
    if weights_folder is not None:
        options.add_session_config_entry(WEIGHTS_FOLDER, weights_folder)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
