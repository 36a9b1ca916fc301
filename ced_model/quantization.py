# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Static int8: the linear layers of the transformer blocks in 8-bit integers, calibrated on recordings.

The mel product, the patches, attention's own products and the head stay in float32.
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
LAYOUT = 3  # of what is kept; another number leaves everything that was kept before alone
MAX_CALIBRATION = 32  # clips: the extremes of activations are found by then


def quantize_onnx(
    model: ModelFolder, recordings: Sequence[np.ndarray] | None = None, front_end: FrontEnd | None = None, **graph: Any
) -> onnx.ModelProto:
    """
    The ONNX graph of a model in int8, with its weights inside.

    Args:
        model: The model.
        recordings: float32 at the model's sampling rate, each of at most `target_length` frames, to calibrate with; by
            default imitations of recordings.
        front_end: Put this front end inside the graph, which then takes waveforms.
        graph: Further arguments of `build_graph`.

    ONNX Runtime and OpenVINO both compute the graph in int8.
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
            activation_type=QuantType.QUInt8,  # in OpenVINO faster than signed integers, in ONNX Runtime the same
            op_types_to_quantize=["Gemm"],
            nodes_to_quantize=layers,
            # What follows is computed in float32, so rounding the outputs too would only lose precision.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        quantized = onnx.load(path)
    by_output = {node.output[0]: node.op_type for node in quantized.graph.node}
    done = [
        node.name
        for node in quantized.graph.node
        if node.op_type == "Gemm" and {by_output.get(name) for name in node.input[:2]} == {"DequantizeLinear"}
    ]
    if missing := set(layers) - set(done):  # the quantizer raises no error for these
        raise EngineError(f"{len(missing)} of {len(layers)} layers could not be quantized to int8")
    quantized.producer_name = "ced_model"
    return quantized


def _layers(model: ModelFolder) -> list[str]:
    """
    Names of the layers to quantize: the linear layers of the blocks, without `mlp.fc2` in the first third of them.

    Behind the GELU of the first blocks a few values are so large that the others share few of the 255 steps. Measured
    on 160 clips of ESC-10 with ced-nano and ONNX Runtime, the best class of float32 stays the same on 99.4 % instead of
    98.1 %, and the mean difference of probabilities is 3.7e-5, not 1.0e-4. Without `fc2` in all blocks it would be
    2.6e-5, but a third of the work in float32. Other remedies help less: percentiles (5.7e-5, and slow), leaving out
    `fc1` (8.1e-5), the last `fc2` (9.3e-5), `attn.proj` or `attn.qkv` (9.8e-5), a reduced range (1.1e-4), symmetric
    weights or unsigned activations (no change).
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
    """Recordings as the graph takes them, each of its own length."""
    front_end = model.front_end
    longest = front_end.max_samples(model.settings.target_length)
    clips = [clip[:longest] for clip in recordings or synthetic_recordings(front_end.sampling_rate)]
    clips = [np.pad(clip, (0, max(0, front_end.min_samples - len(clip)))) for clip in spread(clips, MAX_CALIBRATION)]
    return clips if takes_waveforms else [np.ascontiguousarray(log_mel(clip, front_end)) for clip in clips]


def cached_onnx(model: ModelFolder) -> bytes:
    """
    What [`quantize_onnx`] returns, as the content of a file, made once for each model and version of ONNX Runtime.

    It is kept in a zip archive, whose checksum is verified; a missing or damaged one is made again. Processes may do so
    at the same time: each makes the same content.
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
            "the int8 version is not kept: %s; name another folder in the environment variable HF_ASSETS_CACHE",
            one_line_error(error),
        )
    return content


def _place(model: ModelFolder) -> Path:
    """The file of a model's int8 version, in the folder that the Hub's client has for such files."""
    runtime = f"onnxruntime-{version('onnxruntime')}"
    return Path(assets_folder(), f"int8-{LAYOUT}", runtime, f"{model.fingerprint()}.zip")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantizer logs."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)  # `logging.info` by ONNX Runtime gives the root logger a handler
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
