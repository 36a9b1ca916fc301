# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Tracing with transformers' exporters: dynamic batch and length, calibration inputs, and none of their noise."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.fx.experimental._config as symbolic_shapes
from torch.export import Dim
from transformers.exporters import HfExporter
from transformers.exporters.configs import DynamoConfig

from .graph import TaggingGraph

SAMPLE_BATCH = 2  # one clip would do, but is what an operator may take for a constant
NOISY_LOGGERS = ("torch", "transformers", "onnxscript", "onnx_ir", "nncf", "root")


class GraphInput(NamedTuple):
    """The one input of a graph."""

    name: str
    length_name: str  # what its last dimension counts
    shape: tuple[int, ...]  # of one clip of the greatest length; the last dimension is the length
    min_length: int

    @property
    def max_length(self) -> int:
        return self.shape[-1]

    def sample(self) -> torch.Tensor:
        """A batch of neither the shortest nor the longest clips."""
        length = (self.min_length + self.max_length) // 2
        generator = torch.Generator().manual_seed(0)
        return torch.randn(SAMPLE_BATCH, *self.shape[:-1], length, generator=generator)


def trace(
    exporter: type[HfExporter],
    config: DynamoConfig,
    graph: TaggingGraph,
    graph_input: GraphInput,
    max_batch: int | None = None,
) -> Any:
    """
    Exports a graph with dynamic batch and length; returns the program of the exporter's format.

    `max_batch` bounds the batch for formats that plan their memory ahead.
    """
    length = len(graph_input.shape)
    dimensions: dict[int, Any] = {0: Dim.AUTO, length: Dim.AUTO}
    if max_batch is not None:
        dimensions = {
            0: Dim("batch", min=1, max=max_batch),
            length: Dim("length", min=graph_input.min_length, max=graph_input.max_length),
        }
        config.prefer_deferred_runtime_asserts_over_guards = True
    config.dynamic_shapes = {graph_input.name: dimensions}
    # Otherwise a batch, or a number of patches, of one would count as another program.
    network: Any = graph  # exporters take any module, their types do not say so
    with quiet(), symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return exporter().export(network, {graph_input.name: graph_input.sample()}, config).program


def calibration_inputs(graph_input: GraphInput, arrays: Sequence[np.ndarray]) -> list[dict[str, torch.Tensor]]:
    """Inputs of single clips in the form that transformers' quantizers take."""
    return [{graph_input.name: torch.from_numpy(array)[None]} for array in arrays]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps exporters from writing to standard output and to the log, where they tell of what is no concern here."""
    loggers = [logging.getLogger(name if name != "root" else None) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger()
    handlers = list(root.handlers)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for logger in loggers:
                    logger.setLevel(logging.ERROR)
                yield
            finally:
                for logger, level in zip(loggers, levels, strict=True):
                    logger.setLevel(level)
                # `logging.info` gives the root logger a handler, which would write to the stream of here for ever.
                root.handlers[:] = handlers
