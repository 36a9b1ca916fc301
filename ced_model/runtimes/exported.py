# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A model computed by another runtime, as a tagger uses it: by all threads together, or by each on its own."""

import threading
import weakref
from typing import Any

import numpy as np
import torch

from ..feature_extraction_ced import CedFeatureExtractor
from ..forking import after_fork, use_before_fork_only
from ..modeling_ced import CedForAudioClassification
from . import LoadedExport, load_export
from .cache import open_cached
from .formats import Choice, Format

_ALL: "weakref.WeakSet[ExportedModel]" = weakref.WeakSet()


@after_fork
def _open_again() -> None:
    for model in list(_ALL):
        model._exports, model._lock = {}, threading.Lock()


class ExportedModel:
    """
    The export of a classifier, ready to compute.

    Args:
        model: the classifier, on the CPU in float32.
        feature_extractor: its front end.
        choice: the export, of spectrograms.
        num_threads: CPU threads.

    Raises:
        ValueError: if the model is elsewhere or in another type than the export.
        OSError: if the folder of the cache cannot be written to.
        RuntimeError: if the model cannot be exported, if the export differs from it by too much, or (`ForkError`) in a
            forked process where the runtime does not work.
    """

    def __init__(
        self,
        model: CedForAudioClassification,
        feature_extractor: CedFeatureExtractor,
        choice: Choice,
        num_threads: int,
    ) -> None:
        if model.device.type != "cpu" or model.dtype != torch.float32:
            raise ValueError(
                f"the runtime {choice.format} computes on the CPU in float32, but the model is on {model.device} in"
                f" {str(model.dtype).removeprefix('torch.')}: give `model.cpu().float()`"
            )
        self.num_threads = num_threads
        if choice.format is Format.OPENVINO:
            use_before_fork_only("OpenVINO")  # before it is exported, which takes a while
        self.folder, export = open_cached(model, feature_extractor, choice, num_threads)
        self._exports = {1: export}  # by the calls that are computed at the same time
        self._lock = threading.Lock()
        _ALL.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"num_threads": self.num_threads, "folder": self.folder}  # programs cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _exports={}, _lock=threading.Lock())
        _ALL.add(self)

    def run(self, log_mels: torch.Tensor, is_alone: bool) -> dict[str, np.ndarray]:
        """
        `probabilities` of shape `(windows, classes)` and `embeddings` of shape `(windows, hidden_size)`, float32.

        Args:
            log_mels: float32 of shape `(windows, n_mels, frames)`.
            is_alone: whether all threads may compute this call; else as many calls as there are threads share them.
        """
        return self._open(1 if is_alone else self.num_threads).run(log_mels.contiguous().numpy())

    def _open(self, num_streams: int) -> LoadedExport:
        with self._lock:
            if num_streams not in self._exports:
                if not self.folder.is_dir():
                    raise OSError(f"{self.folder} is gone: the export was removed; make the tagger again")
                self._exports[num_streams] = load_export(
                    self.folder, num_threads=self.num_threads, num_streams=num_streams
                )
            return self._exports[num_streams]
