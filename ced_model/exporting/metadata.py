# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What an export tells of itself: how to feed it, and what its outputs mean."""

from collections.abc import Mapping
from typing import Any

from ..audioset import AUDIOSET_CLASSES
from ..configuration_ced import CedConfig
from ..feature_extraction_ced import CedFeatureExtractor
from ..runtimes.formats import Choice, Format, Input, versions
from .graph import ACTIVATIONS
from .tracing import GraphInput

LABELS_FILE = "labels.csv"


def build_metadata(
    model_name: str, config: CedConfig, extractor: CedFeatureExtractor, choice: Choice, with_embeddings: bool
) -> dict[str, Any]:
    """
    The metadata of an export, in types that JSON has.

    Lengths are in samples (`min_samples`, `max_samples`) and frames: a clip must be at least as long as the first, so
    pad shorter ones with zeros, and at most as long as the second, so cut longer ones into windows.
    """
    names: Any = config.id2label
    labels = [str(names[index]) for index in range(config.num_labels or 0)]
    return {
        "model": model_name,
        "model_type": "ced",
        "format": choice.format.value,
        "quantization": "none" if choice.quantization is None else choice.quantization.value,
        "input": choice.input.value,
        "outputs": ["probabilities", "embeddings"] if with_embeddings else ["probabilities"],
        "activation": ACTIVATIONS[str(config.problem_type)],
        "problem_type": config.problem_type,
        "sampling_rate": extractor.sampling_rate,
        "min_samples": extractor.min_samples,
        "max_samples": max_samples(config, extractor),
        "min_frames": extractor.num_frames(extractor.min_samples),
        "max_frames": config.target_length,
        "patch_frames": config.patch_size,
        "embedding_size": config.embed_dim,
        "front_end": {
            "n_mels": extractor.feature_size,
            "n_fft": extractor.n_fft,
            "win_size": extractor.win_size,
            "hop_size": extractor.hop_size,
            "f_min": extractor.f_min,
            "f_max": extractor.f_max,
            "center": extractor.center,
        },
        "labels": labels,
        "mids": machine_ids(labels),
        "versions": versions(choice),
    }


def max_samples(config: CedConfig, extractor: CedFeatureExtractor) -> int:
    """Samples of the longest clip that is encoded in one piece."""
    first = 0 if extractor.center else extractor.n_fft
    return first + config.target_length * extractor.hop_size - 1


def graph_input(config: CedConfig, extractor: CedFeatureExtractor, choice: Choice) -> GraphInput:
    """What the graph takes."""
    if choice.input is Input.WAVEFORM:
        return GraphInput("waveform", "samples", (max_samples(config, extractor),), extractor.min_samples)
    return GraphInput("input_values", "frames", (config.n_mels, config.target_length), config.patch_size)


def machine_ids(labels: list[str]) -> list[str]:
    """The machine ids of AudioSet's classes by their names, empty for other classes."""
    known = {name: mid for mid, name in AUDIOSET_CLASSES}
    return [known.get(label, "") for label in labels]


def labels_csv(metadata: Mapping[str, Any]) -> str:
    """
    A table `index,mid,display_name` with the names in double quotes always, which sherpa-onnx's C++ insists on. It
    knows no double quotes in a name, which become single ones for it.
    """
    rows = ["index,mid,display_name"]
    quote = "'" if metadata["format"] == Format.SHERPA_ONNX else '""'
    for index, (mid, label) in enumerate(zip(metadata["mids"], metadata["labels"], strict=True)):
        name = " ".join(label.split()).replace('"', quote)
        rows.append(f'{index},{mid},"{name}"')
    return "\n".join(rows) + "\n"
