# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes and opens the model file of an export, for each format."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..engines.onnx import open_session
from ..model_folder import ModelFolder
from ..onnx_graph import EMBEDDINGS, PROBABILITIES, STEPS, build_graph
from .formats import FORMATS, Choice
from .metadata import METADATA_FILE
from .web import copy_weights

RT_INFO = "ced"  # section of `rt_info` with the metadata in an OpenVINO file
# Otherwise processors with bfloat16 use it, even in the front end.
IN_SINGLE_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class LoadedExport(NamedTuple):
    """
    An export, ready to run.

    Attributes:
        metadata: The content of its `metadata.json`.
        run: Computes the outputs by name, float32, for a float32 batch: waveforms `(batch_size, samples)` or log-mel
            spectrograms `(batch_size, n_mels, frames)`, according to `metadata["input"]`.
    """

    metadata: Mapping[str, Any]
    run: Run


def write_program(
    model: ModelFolder, choice: Choice, path: Path, metadata: Mapping[str, Any], recordings: Sequence[np.ndarray]
) -> None:
    """Writes the model file with its metadata. int8 is calibrated on the recordings."""
    front_end = model.front_end if choice.input == "waveform" else None
    in_half = choice.compute_type == "float16"
    if choice.format == "torch":
        from .torch_program import write_torch

        write_torch(model, path, metadata, front_end, in_half)
        return
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    graph_options: dict[str, Any] = {"front_end": front_end, "any_length": choice.format == "sherpa-onnx"}
    if choice.compute_type == "int8":
        from ..quantization import quantize_onnx

        graph = quantize_onnx(model, recordings, **graph_options)
        del graph.metadata_props[:]
    else:
        names = metadata.get("weights")
        tensors = copy_weights(model, names, path.parent) if names else model.tensors
        graph = build_graph(model.settings, tensors, inline=not names, in_half=in_half, **graph_options)
    if choice.format == "openvino":
        import openvino

        program = openvino.Core().read_model(graph.SerializeToString())
        for key, text in texts.items():
            program.set_rt_info(text, [RT_INFO, key])
        openvino.save_model(program, str(path), compress_to_fp16=False)
        return
    for key, text in texts.items():
        graph.metadata_props.add(key=key, value=text)
    path.write_bytes(graph.SerializeToString())


def load_export(folder: str | Path, *, num_threads: int | None = None) -> LoadedExport:
    """
    Opens an export with its runtime; one for sherpa-onnx with ONNX Runtime.

    Args:
        folder: The folder of the export.
        num_threads: CPU threads, by default chosen by the runtime. In PyTorch the number holds for the process.

    Raises:
        OSError: if a file is missing or cannot be read.
        MissingPackageError: if the runtime is not installed.
    """
    metadata = json.loads(Path(folder, METADATA_FILE).read_text(encoding="utf-8"))
    format = FORMATS[metadata["format"]]
    opener = {"openvino": _open_openvino, "torch": _open_torch}.get(metadata["format"], _open_onnx)
    return LoadedExport(metadata, opener(Path(folder, format.file), num_threads))


def _open_onnx(path: Path, num_threads: int | None) -> Run:
    session = open_session(str(path), num_threads or 0)
    (name,), outputs = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))
    return lambda values: dict(zip(outputs, session.run(outputs, {name: values}), strict=True))


def _open_openvino(path: Path, num_threads: int | None) -> Run:
    import openvino

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **IN_SINGLE_PRECISION}
    if num_threads is not None:
        config["INFERENCE_NUM_THREADS"] = num_threads
    compiled = openvino.Core().compile_model(str(path), "CPU", config)
    outputs = [name for output in compiled.outputs for name in output.names & {PROBABILITIES, EMBEDDINGS, STEPS}]

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        results = compiled.create_infer_request().infer([values], share_inputs=True)
        return {name: results[name] for name in outputs}

    return run


def _open_torch(path: Path, num_threads: int | None) -> Run:
    import torch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    module = torch.export.load(path).module()

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {name: output.numpy() for name, output in module(torch.from_numpy(values)).items()}

    return run
