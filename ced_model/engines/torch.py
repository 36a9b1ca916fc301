# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch, on a GPU or where it is asked for; and the weights of a PyTorch model for the other engines."""

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
    """The probabilities of raw outputs of shape `(batch, classes)`; the outputs of a regression stay as they are."""
    name = ACTIVATIONS[problem_type]
    return outputs.sigmoid() if name == "Sigmoid" else outputs.softmax(dim=-1) if name == "Softmax" else outputs


class TorchEngine:
    """
    A `CedForAudioClassification` or `CedForAudioFrameClassification`, computed in evaluation mode and left in the mode
    that it is in.

    Args:
        model: The classifier. Its own weights are used, so training it further changes what is computed.
        num_threads: CPU threads.
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
    """The classifier of a [`ModelFolder`], whose checks it has passed, in evaluation mode on the CPU."""
    return CedForAudioClassification.from_pretrained(folder.path, dtype=dtype)


def check_device(device: str) -> None:
    """Raises a ValueError if PyTorch cannot compute on `device`."""
    try:
        torch.zeros(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # by build and by device
        reason = one_line_error(error).partition(". ")[0]
        raise OptionError("device", device, f"cpu, or a device that PyTorch can use ({reason})") from None


@dataclass(frozen=True)
class TensorInMemory:
    """A tensor of a PyTorch model, with what is asked of a [`StoredTensor`]."""

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
    A model in memory as a [`ModelFolder`], `with_weights` as they are now.

    Raises:
        ValueError: if it is not a CED classifier.
        EngineError: if `with_weights` and the model has other layers than CED, such as adapters.
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
    How many CPU threads PyTorch uses for what this thread computes in the context, by default as many as before.

    In a forked process it is one: the threads of the parent's pool do not exist there, and PyTorch would wait for them.
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
    Sets the number of threads for this thread alone.

    `torch.set_num_threads` also sets what threads yet to come start with, which here stays as it was, so that others
    who use PyTorch in the same process notice nothing.
    """
    if torch.get_num_threads() == number:  # asking also keeps a new thread from setting its number later on
        return
    with _THREADS_LOCK, ThreadPoolExecutor(1) as new_thread:
        default = new_thread.submit(torch.get_num_threads).result()
        torch.set_num_threads(number)
        new_thread.submit(torch.set_num_threads, default).result()
