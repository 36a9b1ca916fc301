# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Running exports: one small module for each runtime, behind one call."""

import json
import weakref
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..forking import after_fork, never_free
from .formats import SUPPORT, Format, check_runtime

Run = Callable[[np.ndarray], dict[str, np.ndarray]]

MODULES = {
    Format.ONNX: "onnx",
    Format.OPENVINO: "openvino",
    Format.TORCH: "torch",
    Format.EXECUTORCH: "executorch",
    Format.SHERPA_ONNX: "onnx",
}

_OPEN: "weakref.WeakSet[Run]" = weakref.WeakSet()


@after_fork
def _keep_those_of_the_parent() -> None:
    for run in list(_OPEN):
        never_free(run)


class LoadedExport(NamedTuple):
    """An export, ready to run."""

    metadata: Mapping[str, Any]  # as in its metadata.json
    run: Run
    """
    Runs a batch: waveforms of shape `(batch_size, samples)` or mel spectrograms of shape `(batch_size, n_mels,
    frames)`, as `metadata["input"]` says, float32 and C-contiguous; returns the outputs by their names, float32.
    """


def load_export(folder: str | Path, *, num_threads: int | None = None, num_streams: int = 1) -> LoadedExport:
    """
    Opens what [`exporting.export_model`] wrote, with the runtime that its format is for.

    Args:
        folder (`str` or `Path`):
            The folder of the export.
        num_threads (`int`, *optional*):
            CPU threads, by default what the runtime chooses. PyTorch and ExecuTorch share theirs with the process.
        num_streams (`int`, *optional*, defaults to 1):
            Calls of `run` that are computed at the same time, of ONNX Runtime and OpenVINO: with one, all threads
            compute each call; with more, the calls of so many threads share them.

    Raises:
        `OSError`: if a file is missing or cannot be read.
        `ImportError`: if the runtime is not installed; it names the extra.
    """
    metadata = json.loads(Path(folder, "metadata.json").read_text(encoding="utf-8"))
    format = Format(metadata["format"])
    check_runtime(format)
    runtime: Any = import_module(f".{MODULES[format]}", __name__)
    path = Path(folder, SUPPORT[format].file)
    run = runtime.open_program(path, metadata, num_threads, num_streams)
    _OPEN.add(run)
    return LoadedExport(metadata, run)
