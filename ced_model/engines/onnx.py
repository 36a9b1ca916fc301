# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU."""

import numpy as np
import onnxruntime

from ..onnx_graph import EMBEDDINGS, PROBABILITIES, STEPS, build_graph
from . import CpuEngine, EngineError, Outputs, one_line_error

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
ERRORS_ONLY = 3  # log severity of ONNX Runtime


class OnnxEngine(CpuEngine):
    """
    Runs the graph of `onnx_graph`, with the weights in their original file.

    Raises:
        EngineError: if ONNX Runtime does not support the model.
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
        except Exception as error:  # ONNX Runtime raises many types of its own
            raise EngineError(f"ONNX Runtime cannot open {self.model.name}: {one_line_error(error)}") from error


def open_session(
    graph: str | bytes, num_threads: int, weights_folder: str | None = None
) -> onnxruntime.InferenceSession:
    """
    Opens a session on the CPU.

    Args:
        graph: A file, or its content.
        num_threads: Number of threads, 0 for the default of ONNX Runtime.
        weights_folder: Folder of the weights that the graph refers to, with links resolved: ONNX Runtime does not
            follow links out of this folder, such as those of the Hub cache.
    """
    options = onnxruntime.SessionOptions()
    # A call runs on the calling thread and, in a session with several threads, on those of the session.
    options.intra_op_num_threads = num_threads
    options.log_severity_level = ERRORS_ONLY
    if weights_folder is not None:
        options.add_session_config_entry(WEIGHTS_FOLDER, weights_folder)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
