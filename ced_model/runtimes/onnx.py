# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from . import Run


def open_program(path: Path, metadata: Mapping[str, Any], num_threads: int | None, num_streams: int) -> Run:
    """Opens a `.onnx` file on the CPU."""
    options = onnxruntime.SessionOptions()
    # Calls run on the threads that they come from and on the session's own, of which all calls share one pool.
    options.intra_op_num_threads = 0 if num_threads is None else max(1, num_threads // num_streams)
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(metadata["outputs"], session.run(None, {name: values}), strict=True))

    return run
