# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch, for programs of torch.export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import Run


def open_program(path: Path, metadata: Mapping[str, Any], num_threads: int | None, num_streams: int) -> Run:
    """Loads a `.pt2` file on the CPU."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    module = torch.export.load(path).module()
    name = "waveform" if metadata["input"] == "waveform" else "input_values"

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = module(**{name: torch.from_numpy(values)})
        return {name: output.numpy() for name, output in outputs.items()}

    return run
