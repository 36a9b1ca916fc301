# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch on any device, and weights of PyTorch models for other engines."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..configuration_ced import CedConfig
from ..evaluation_mode import check_weights, in_evaluation_mode
from ..feature_extraction_ced import CedFeatureExtractor
from ..forking import after_fork, is_forked
from ..messages import OptionError
from ..model_folder import ModelFolder
from ..model_settings import FRAME_MODEL, ModelSettings, check_model, expected_shapes, front_end_of
from ..modeling_ced import CedForAudioClassification
from ..onnx_graph import ACTIVATIONS
from . import Choice, EngineError, Outputs, one_line_error


def activate(outputs: torch.Tensor, problem_type: str) -> torch.Tensor:
    """Probabilities from raw outputs of shape `(batch, classes)`; outputs of a regression are returned unchanged."""
    name = ACTIVATIONS[problem_type]
    return outputs.sigmoid() if name == "Sigmoid" else outputs.softmax(dim=-1) if name == "Softmax" else outputs


class TorchEngine:
    """
    Runs a `CedForAudioClassification` or `CedForAudioFrameClassification` in evaluation mode, without changing the mode
    of the model itself.

    Args:
        model: The classifier. Its weights are not copied, so later changes of them take effect.
        num_threads: Number of CPU threads.
        has_steps: Whether to score steps as well.

    Raises:
        ValueError: if the model has weights that are NaN or infinite.
    """

    name = "torch"

    def __init__(self, model: CedForAudioClassification, num_threads: int, has_steps: bool = False) -> None:
        with cpu_threads(1):
            check_weights(model)
        self.model, self.num_threads, self.has_steps = model, num_threads, has_steps
        self.device = str(model.device)
        self.compute_type = str(model.dtype).removeprefix("torch.")

    @classmethod
    def from_folder(cls, folder: Any, choice: Choice, num_threads: int) -> "TorchEngine":
        """Loads a [`ModelFolder`] onto the device of `choice`."""
        with cpu_threads():
            check_device(choice.device)
            model: Any = load_model(folder, getattr(torch, choice.compute_type))
            return cls(model.to(choice.device), num_threads, folder.settings.has_steps)

    @torch.inference_mode()
    def run(self, log_mels: np.ndarray, is_alone: bool) -> Outputs:
        model = in_evaluation_mode(self.model)
        with cpu_threads(self.num_threads if is_alone else 1):
            values = torch.from_numpy(np.ascontiguousarray(log_mels)).to(self.model.device)
            encoded = model.encoder(values, return_dict=True)
            probabilities = activate(model.classify(encoded).float(), str(model.config.problem_type))
            steps = None
            if self.has_steps:
                steps = model.outputlayer(encoded.frame_states[:, 0]).float().sigmoid().cpu().numpy()
            return Outputs(probabilities.cpu().numpy(), encoded.pooler_output.float().cpu().numpy(), steps)


def load_model(folder: Any, dtype: torch.dtype = torch.float32) -> CedForAudioClassification:
    """Loads the classifier of a [`ModelFolder`], which was checked before, in evaluation mode on the CPU."""
    return CedForAudioClassification.from_pretrained(folder.path, dtype=dtype)


def check_device(device: str) -> None:
    """Raises a ValueError if PyTorch cannot compute on `device`."""
    try:
        torch.zeros(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # depending on build and device
        reason = one_line_error(error).partition(". ")[0]
        raise OptionError("device", device, f"cpu, or a device that PyTorch can use ({reason})") from None


@dataclass(frozen=True)
class TensorInMemory:
    """A tensor of a PyTorch model, with the interface of a [`StoredTensor`]."""

    values: np.ndarray
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def read(self) -> np.ndarray:
        return self.values

    def chunks(self) -> Iterator[np.ndarray]:
        yield np.ascontiguousarray(self.values)


def folder_of(
    model: CedForAudioClassification, feature_extractor: CedFeatureExtractor | None, with_weights: bool
) -> ModelFolder:
    """
    A [`ModelFolder`] for a model in memory.

    Args:
        with_weights: Whether to include the current weights.

    Raises:
        ValueError: if it is not a CED classifier.
        EngineError: for `with_weights`, if the model has other layers than CED, such as adapters.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) != CedConfig.model_type or not hasattr(model, "classify"):
        raise OptionError("model", type(model).__name__, "a CED classification model, a folder or a Hub id")
    kind = [FRAME_MODEL] if hasattr(model, "get_step_mask") else []
    fields = config.to_dict() | {"num_labels": config.num_labels, "architectures": kind}
    tensors: dict[str, Any] = {}
    if with_weights:
        check_weights(model)
        for name, tensor in model.state_dict().items():
            tensors[name] = TensorInMemory(tensor.detach().float().cpu().numpy().copy())
        if not expected_shapes(check_model(fields)).keys() <= tensors.keys():
            raise EngineError("the model has other layers than CED, such as adapters: merge them first, or use torch")
    return ModelFolder(
        name=config.name_or_path or "ced",
        path=None,
        settings=ModelSettings.of(fields),
        front_end=front_end_of(fields) if feature_extractor is None else feature_extractor.front_end,
        labels=tuple(config.id2label[index] for index in range(config.num_labels)),
        tensors=tensors,
    )


@contextmanager
def cpu_threads(number: int | None = None) -> Iterator[None]:
    """
    Sets the number of CPU threads that PyTorch uses for this thread within the context, by default unchanged.

    In a forked process it is always one: the parent's thread pool does not exist there, and PyTorch would wait for it.
    """
    before = torch.get_num_threads()
    try:
        _use_threads(1 if is_forked() else number or before)
        yield
    finally:
        _use_threads(before)


_THREADS_LOCK = threading.Lock()


@after_fork
def _renew_lock() -> None:
    global _THREADS_LOCK
    _THREADS_LOCK = threading.Lock()


def _use_threads(number: int) -> None:
    """
    Sets the number of threads for this thread only.

    `torch.set_num_threads` also sets the default for threads that start later; that default is restored here, so that
    other users of PyTorch in this process are not affected.
    """
    if torch.get_num_threads() == number:  # the call also fixes the number for a new thread
        return
    with _THREADS_LOCK, ThreadPoolExecutor(1) as new_thread:
        default = new_thread.submit(torch.get_num_threads).result()
        torch.set_num_threads(number)
        new_thread.submit(torch.set_num_threads, default).result()
