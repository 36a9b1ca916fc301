# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
The engines ONNX Runtime, OpenVINO and PyTorch, with a common interface. They are imported on first use.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..forking import after_fork, never_free
from ..messages import EngineError as EngineError
from ..messages import OptionError
from ..messages import one_line_error as one_line_error
from ..packages import INSTALL as INSTALL
from ..packages import MissingPackageError as MissingPackageError
from ..packages import missing, require

PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",), "torch": ("torch", "transformers")}
COMPUTE_TYPES = {
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8"),
    "torch": ("float32", "bfloat16", "float16"),
}
ENGINES = tuple(PACKAGES)


class Outputs(NamedTuple):
    """
    Outputs of a model for a batch of windows.

    Attributes:
        probabilities: float32 of shape `(windows, classes)`; the raw outputs of a regression model.
        embeddings: float32 of shape `(windows, embed_dim)`.
        steps: Probabilities of each time step, float32 of shape `(windows, steps, classes)`, if the model has steps;
            else None.
    """

    probabilities: np.ndarray
    embeddings: np.ndarray
    steps: np.ndarray | None = None


class Engine(Protocol):
    """
    Computes one model.

    Attributes:
        name: `"onnx"`, `"openvino"` or `"torch"`.
        compute_type: `"float32"`, `"bfloat16"`, `"float16"` or `"int8"`.
        device: `"cpu"`, or a device of PyTorch.
    """

    name: str
    compute_type: str
    device: str

    def run(self, log_mels: np.ndarray, is_alone: bool) -> Outputs:
        """
        Computes a batch. May be called from several threads.

        Args:
            log_mels: float32 of shape `(windows, n_mels, frames)`.
            is_alone: Whether this call may use all CPU threads. Otherwise it uses one thread, since one call per thread
                is expected at the same time.
        """
        ...


class Choice(NamedTuple):
    """An engine, its compute type and its device."""

    engine: str
    compute_type: str
    device: str


def choose_engine(engine: str = "auto", compute_type: str | None = None, device: str | None = None) -> Choice:
    """
    Chooses an engine, without importing any.

    Args:
        engine: `"onnx"`, `"openvino"`, `"torch"`, or `"auto"`. `"auto"` is torch for a device other than the CPU, or if
            there is a CUDA GPU and torch is installed; otherwise ONNX Runtime, which is the fastest on a CPU in
            `float32` and `int8` (`benchmarks/tagging.py`). For other types, it is the first installed engine that
            supports the type.
        compute_type: `"float32"` (default), `"bfloat16"`, `"float16"` or `"int8"`.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, …; with torch, by default a CUDA GPU if there is one.

    Raises:
        OptionError: for an unknown engine or type, or an unsupported combination.
        MissingPackageError: if a package of the engine is not installed.
    """
    known_types = list(dict.fromkeys(kind for kinds in COMPUTE_TYPES.values() for kind in kinds))
    if engine not in ("auto", *ENGINES):
        raise OptionError("engine", engine, f"auto, {', '.join(ENGINES)}")
    if compute_type is not None and compute_type not in known_types:
        raise OptionError("compute_type", compute_type, ", ".join(known_types))
    on_cpu = device is None or str(device).partition(":")[0] == "cpu"
    if engine == "auto":
        engine = _fastest(compute_type or "float32", device, on_cpu)
    elif engine != "torch" and not on_cpu:
        raise OptionError("device", str(device), f"cpu for the engine {engine}; other devices require torch")
    compute_type = compute_type or "float32"
    if compute_type not in COMPUTE_TYPES[engine]:
        able = " or ".join(name for name, kinds in COMPUTE_TYPES.items() if compute_type in kinds)
        wanted = f"{' or '.join(COMPUTE_TYPES[engine])} with the engine {engine}; {compute_type} requires {able}"
        raise OptionError("compute_type", compute_type, wanted)
    check_installed(engine)
    if device is None:
        device = "cuda" if engine == "torch" and has_cuda_gpu() else "cpu"
    return Choice(engine, compute_type, str(device))


def _fastest(compute_type: str, device: str | None, on_cpu: bool) -> str:
    has_gpu = not on_cpu or (device is None and is_installed("torch") and has_cuda_gpu())
    if has_gpu and compute_type in COMPUTE_TYPES["torch"]:
        return "torch"
    able = [name for name in ENGINES if compute_type in COMPUTE_TYPES[name]]
    return next((name for name in able if is_installed(name)), able[0])


def is_installed(engine: str) -> bool:
    return not missing(PACKAGES[engine])


def check_installed(engine: str) -> None:
    """Raises a `MissingPackageError` if packages of an engine are missing."""
    require(PACKAGES[engine], f"the engine {engine}", INSTALL[engine])


@cache
def has_cuda_gpu() -> bool:
    """Whether the NVIDIA driver has a GPU. Queries the driver directly, since importing torch takes seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (AttributeError, OSError):
        return False


def open_engine(model: Any, choice: Choice, num_threads: int) -> Engine:
    """Opens a [`ModelFolder`] with an engine."""
    if choice.engine == "onnx":
        from .onnx import OnnxEngine

        return OnnxEngine(model, choice.compute_type, num_threads)
    if choice.engine == "openvino":
        from .openvino import OpenVinoEngine

        return OpenVinoEngine(model, choice.compute_type, num_threads)
    from .torch import TorchEngine

    return TorchEngine.from_folder(model, choice, num_threads)


class PerProcess:
    """Caches values per process: sessions of a runtime have threads, which do not exist in a forked process."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._values: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()
        _PER_PROCESS.add(self)

    def get(self, *key: Any) -> Any:
        with self._lock:
            if key not in self._values:
                self._values[key] = self._make(*key)
            return self._values[key]


class CpuEngine:
    """An [`Engine`] on the CPU for a model folder; it can be pickled."""

    device = "cpu"

    def __init__(self, model: Any, compute_type: str, num_threads: int) -> None:
        self.model, self.compute_type, self.num_threads = model, compute_type, num_threads
        self._opened = PerProcess(self._open)

    def __reduce__(self) -> Any:
        return type(self), (self.model, self.compute_type, self.num_threads)

    def _open(self, number: int) -> Any:
        """Opens the model for `number` threads or streams."""
        raise NotImplementedError


_PER_PROCESS: "weakref.WeakSet[PerProcess]" = weakref.WeakSet()


@after_fork
def _make_again() -> None:
    for each in list(_PER_PROCESS):
        for value in each._values.values():
            never_free(value)
        each._values, each._lock = {}, threading.Lock()
