# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.runtime import Runtime

from . import Run


def open_program(path: Path, metadata: Mapping[str, Any], num_threads: int | None, num_streams: int) -> Run:
    """Loads a `.pte` file; its thread pool is ExecuTorch's own."""
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    if method is None:
        raise OSError(f"{path} has no method 'forward'.")

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        outputs = method.execute([torch.from_numpy(values)])
        # The next call writes where these are.
        return {name: np.array(output) for name, output in zip(metadata["outputs"], outputs, strict=True)}

    run.program = program  # type: ignore[attr-defined]  # lives as long as its method
    return run
