# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from ..forking import use_before_fork_only
from . import Run

# Without it, processors that have bfloat16 compute with it, the front end included.
IN_SINGLE_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


def open_program(path: Path, metadata: Mapping[str, Any], num_threads: int | None, num_streams: int) -> Run:
    """Compiles a `.xml` file for the CPU."""
    use_before_fork_only("OpenVINO")
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **IN_SINGLE_PRECISION}
    if num_streams > 1:
        config |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": num_streams}
    if num_threads is not None:
        config["INFERENCE_NUM_THREADS"] = num_threads
    compiled = openvino.Core().compile_model(str(path), "CPU", config)

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        # A request of its own makes calls from several threads safe.
        results = compiled.create_infer_request().infer([values], share_inputs=True)
        return {name: results[name] for name in metadata["outputs"]}

    return run
