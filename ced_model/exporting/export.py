# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""One call from a model to a verified folder for another runtime."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..audio import AudioInput
from ..feature_extraction_ced import CedFeatureExtractor
from ..modeling_ced import CedForAudioClassification
from ..output import new_folder
from ..runtimes import load_export
from ..runtimes.formats import Choice, Format, Input, Quantization, check_export_packages, choose
from .graph import TaggingGraph, store_in_half
from .metadata import LABELS_FILE, build_metadata, graph_input, labels_csv, max_samples
from .output import METADATA_FILE, check_export, check_output
from .readme import write_readme
from .recordings import bundled_recordings, load_recordings, spread, synthetic_recordings
from .to_sherpa_onnx import SherpaComparison, check_front_end, compare_with_sherpa
from .tracing import GraphInput
from .verification import Check, verify

MAX_CALIBRATION = 32  # clips: the extremes of activations are found by then


class ExportReport(NamedTuple):
    """What was written and how far it is from torch."""

    folder: Path
    file: Path  # the program
    num_bytes: int  # of the program, with its weights
    checks: list[Check]
    sherpa: SherpaComparison | None
    is_calibrated: bool  # for int8: on recordings that were given


def export_model(
    model: CedForAudioClassification,
    output: str | Path,
    *,
    feature_extractor: CedFeatureExtractor,
    format: str = "onnx",
    input: str | None = None,
    quantize: str | None = None,
    recordings: Iterable[AudioInput] = (),
    model_name: str = "ced",
    overwrite: bool = False,
) -> ExportReport:
    """
    Exports a classifier for another runtime, and verifies what was written against torch.

    Args:
        model (`CedForAudioClassification`):
            The classifier.
        output (`str` or `Path`):
            The folder to make. It appears when all is written and verified; until then there is nothing.
        feature_extractor (`CedFeatureExtractor`):
            The front end of the model.
        format (`str`, *optional*, defaults to `"onnx"`):
            `"onnx"`, `"openvino"`, `"torch"` (a program of torch.export), `"executorch"` or `"sherpa-onnx"`.
        input (`str`, *optional*):
            `"waveform"`, the default where the format takes it, or `"mel"`.
        quantize (`str`, *optional*):
            `"fp16"` stores the weights in half precision and computes in single precision; `"int8"` computes the
            transformer blocks in 8-bit integers, calibrated on the `recordings`.
        recordings (`Iterable` of paths, bytes, file objects or arrays, *optional*):
            Audio to verify on and to calibrate with, of which up to 100 are used (32 of these to
            calibrate with), the first 10.12 s of each; by default imitations
            of recordings, and for verification those of `resources/`, too, if they are on the machine.
        model_name (`str`, *optional*, defaults to `"ced"`):
            What the metadata call the model.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace an export that is at `output` already.

    Returns:
        [`ExportReport`]: sizes and measured differences.

    Raises:
        `ValueError`: if the format does not take the input or the quantization, or for a front end that no graph has.
        `ImportError`: if packages are missing; it names the extra.
        `FileExistsError`: if there is something at `output`.
        `AudioError`: if a recording cannot be read.
        `VerificationError`: if the export does not compute what the model does. Nothing is left behind.
    """
    choice = choose(format, input, quantize)
    check_export_packages(choice)
    destination = check_output(output, overwrite)
    if choice.format is Format.SHERPA_ONNX:
        check_front_end(feature_extractor)
    rate = feature_extractor.sampling_rate
    longest = max_samples(model.config, feature_extractor)
    given = load_recordings(recordings, rate, longest)
    imitations = [clip[:longest] for clip in synthetic_recordings(rate)]
    clips = given or bundled_recordings(rate, longest) + imitations
    with_embeddings = choice.format is not Format.SHERPA_ONNX
    graph = TaggingGraph(model, feature_extractor if choice.input is Input.WAVEFORM else None, with_embeddings)
    reference = TaggingGraph(model).model  # on the CPU, in float32
    metadata = build_metadata(model_name, model.config, feature_extractor, choice, with_embeddings)
    with new_folder(destination, check_export if overwrite else None) as folder:
        text = json.dumps(metadata, ensure_ascii=False, indent=1)
        (folder / METADATA_FILE).write_text(text + "\n", encoding="utf-8")
        (folder / LABELS_FILE).write_text(labels_csv(metadata), encoding="utf-8")
        calibration = None
        if choice.quantization is Quantization.INT8:
            # Loud recordings among so few widen the ranges: with those of `resources/` among the imitations, int8
            # changes the best class of ced-nano on 1.0 % of recordings, without them on 0.7 %.
            calibration = _calibration_arrays(given or imitations, feature_extractor, choice)
        inputs = graph_input(model.config, feature_extractor, choice)
        _write_program(choice, graph, inputs, folder / choice.file, metadata, calibration)
        loaded = load_export(folder)
        checks = verify(loaded, reference, feature_extractor, clips)
        comparison = None
        if choice.format is Format.SHERPA_ONNX:
            comparison = compare_with_sherpa(folder, loaded, feature_extractor, clips)
        (folder / "README.md").write_text(write_readme(metadata, checks, comparison), encoding="utf-8")
        program = [path for path in folder.iterdir() if path.stem == Path(choice.file).stem]
        num_bytes = sum(path.stat().st_size for path in program)
        del loaded
    return ExportReport(destination, destination / choice.file, num_bytes, checks, comparison, bool(given))


def _calibration_arrays(
    clips: Sequence[np.ndarray], extractor: CedFeatureExtractor, choice: Choice
) -> list[np.ndarray]:
    """Recordings as the graph takes them, each of its own length."""
    arrays = []
    for clip in spread(clips, MAX_CALIBRATION):
        clip = np.pad(clip, (0, max(0, extractor.min_samples - len(clip))))
        if choice.input is Input.MEL:
            arrays.append(extractor.log_mel(torch.from_numpy(clip)).contiguous().numpy())
        else:
            arrays.append(clip)
    return arrays


def _write_program(
    choice: Choice,
    graph: TaggingGraph,
    graph_input: GraphInput,
    path: Path,
    metadata: Mapping[str, Any],
    calibration: Sequence[np.ndarray] | None,
) -> None:
    """Each format's module imports packages that the others do not need."""
    in_half = choice.quantization is Quantization.FP16
    if in_half and choice.format is not Format.OPENVINO:  # its converter would undo this
        store_in_half(graph)
    if choice.format in (Format.ONNX, Format.SHERPA_ONNX):
        from .to_onnx import write_onnx

        write_onnx(graph, graph_input, path, metadata, calibration)
    elif choice.format is Format.OPENVINO:
        from .to_openvino import write_openvino

        write_openvino(graph, graph_input, path, metadata, calibration, in_half)
    elif choice.format is Format.TORCH:
        from .to_torch import write_torch

        write_torch(graph, graph_input, path, metadata)
    else:
        from .to_executorch import write_executorch

        write_executorch(graph, graph_input, path, calibration)
