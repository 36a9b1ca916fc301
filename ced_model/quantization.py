# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Static int8 quantization of the linear layers of the transformer blocks, calibrated on recordings.

The front end, the patch embeddings, the attention products and the head remain in float32.
"""

import contextlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .calibration import spread, synthetic_recordings
from .hub import assets_folder
from .log_mel import FrontEnd, log_mel
from .messages import EngineError, one_line_error
from .model_folder import ModelFolder
from .onnx_graph import build_graph
from .output import new_file

BLOCKS = "encoder.blocks."
LAYOUT = 3  # version of the cache; another number ignores all earlier files
MAX_CALIBRATION = 32  # clips; more do not change the range of activations


def quantize_onnx(
    model: ModelFolder, recordings: Sequence[np.ndarray] | None = None, front_end: FrontEnd | None = None, **graph: Any
) -> onnx.ModelProto:
    """
    The ONNX graph of a model in int8, with its weights inside, for ONNX Runtime and OpenVINO.

    Args:
        model: The model.
        recordings: Recordings for the calibration, float32 at the model's sampling rate, each of at most
            `target_length` frames; by default synthetic ones.
        front_end: Include this front end in the graph, so that its input is a waveform.
        graph: Further arguments of [`build_graph`].
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    float_graph = build_graph(model.settings, model.tensors, front_end=front_end, inline=True, **graph)
    name = float_graph.graph.input[0].name
    layers = _layers(model)
    inputs = _calibration_inputs(model, recordings, takes_waveforms=front_end is not None)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{name: values[None]} for values in inputs])

        def get_next(self) -> Any:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = os.path.join(folder, "int8.onnx")
        quantize_static(
            float_graph,
            path,
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,  # faster than signed integers in OpenVINO, the same in ONNX Runtime
            op_types_to_quantize=["Gemm"],
            nodes_to_quantize=layers,
            # The next operations are in float32, so quantized outputs would only lose precision.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        quantized = onnx.load(path)
    by_output = {node.output[0]: node.op_type for node in quantized.graph.node}
    done = [
        node.name
        for node in quantized.graph.node
        if node.op_type == "Gemm" and {by_output.get(name) for name in node.input[:2]} == {"DequantizeLinear"}
    ]
    if missing := set(layers) - set(done):  # the quantizer skips layers without an error
        raise EngineError(f"{len(missing)} of {len(layers)} layers could not be quantized to int8")
    quantized.producer_name = "ced_model"
    return quantized


def _layers(model: ModelFolder) -> list[str]:
    """
    Names of the layers to quantize: the linear layers of the blocks, without `mlp.fc2` in the first third of them.

    After the GELU of the first blocks, a few values are so large that most others share few of the 255 steps. On 160
    clips of ESC-10 with ced-nano and ONNX Runtime, leaving out these layers keeps the best class of float32 on 99.4 %
    instead of 98.1 %, and the mean difference of probabilities is 3.7e-5 instead of 1.0e-4. Leaving out `fc2` in all
    blocks gives 2.6e-5, but a third of the work is then in float32. Other methods help less: percentiles (5.7e-5, and
    slow), leaving out `fc1` (8.1e-5), the last `fc2` (9.3e-5), `attn.proj` or `attn.qkv` (9.8e-5), a reduced range
    (1.1e-4), symmetric weights or unsigned activations (no change).
    """
    depth = model.settings.depth
    return [
        f"{BLOCKS}{index}.{name}"
        for index in range(depth)
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        if name != "mlp.fc2" or 3 * index >= depth
    ]


def _calibration_inputs(
    model: ModelFolder, recordings: Sequence[np.ndarray] | None, takes_waveforms: bool
) -> list[np.ndarray]:
    """Recordings as inputs of the graph, each with its own length."""
    front_end = model.front_end
    longest = front_end.max_samples(model.settings.target_length)
    clips = [clip[:longest] for clip in recordings or synthetic_recordings(front_end.sampling_rate)]
    clips = [np.pad(clip, (0, max(0, front_end.min_samples - len(clip)))) for clip in spread(clips, MAX_CALIBRATION)]
    return clips if takes_waveforms else [np.ascontiguousarray(log_mel(clip, front_end)) for clip in clips]


def cached_onnx(model: ModelFolder) -> bytes:
    """
    The result of [`quantize_onnx`] as bytes, cached by model and version of ONNX Runtime.

    The cache is a zip archive with a checksum; a missing or damaged one is made again. Several processes may do so at
    the same time, with the same result.
    """
    path, name = _place(model), "model.onnx"
    with contextlib.suppress(OSError, KeyError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return archive.read(name)
    logger = logging.getLogger(__name__)
    logger.warning("quantizing %s to int8, once: the result is kept for later runs ...", model.name)
    try:
        content = quantize_onnx(model).SerializeToString()
    except EngineError:
        raise
    except Exception as error:  # the quantizer raises many kinds
        raise EngineError(f"{model.name} cannot be quantized to int8: {one_line_error(error)}") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, replace=True, keeps=False) as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, content)
    except OSError as error:
        logger.warning(
            "the int8 version cannot be cached: %s; set another folder in the environment variable HF_ASSETS_CACHE",
            one_line_error(error),
        )
    return content


def _place(model: ModelFolder) -> Path:
    """The file of a model's int8 version in the cache."""
    runtime = f"onnxruntime-{version('onnxruntime')}"
    return Path(assets_folder(), f"int8-{LAYOUT}", runtime, f"{model.fingerprint()}.zip")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the quantizer's log messages."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)  # ONNX Runtime adds a handler by `logging.info`
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
