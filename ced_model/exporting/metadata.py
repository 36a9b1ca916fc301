# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The metadata of an export: its inputs, outputs and labels."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..audioset import AUDIOSET_CLASSES
from ..model_folder import ModelFolder
from ..onnx_graph import ACTIVATIONS, EMBEDDINGS, PROBABILITIES, STEPS
from .formats import Choice, versions_of
from .web import weight_files

METADATA_FILE, LABELS_FILE = "metadata.json", "labels.csv"


def build_metadata(model: ModelFolder, choice: Choice) -> dict[str, Any]:
    """
    The metadata of an export, in JSON types.

    Lengths are in samples (`min_samples`, `max_samples`) and frames. Shorter clips must be padded with zeros, longer
    ones split into windows.
    """
    settings, front_end = model.settings, model.front_end
    parameters = asdict(front_end)
    return {
        "model": Path(os.path.realpath(model.name)).name if os.path.isdir(model.name) else model.name,
        "model_type": "ced",
        "format": choice.format,
        "compute_type": choice.compute_type,
        "input": choice.input,
        "outputs": _outputs(settings.has_steps, choice.format),
        "activation": ACTIVATIONS[settings.problem_type].lower() or "none",
        "problem_type": settings.problem_type,
        "sampling_rate": parameters.pop("sampling_rate"),
        "min_samples": front_end.min_samples,
        "max_samples": front_end.max_samples(settings.target_length),
        "min_frames": front_end.num_frames(front_end.min_samples),
        "max_frames": settings.target_length,
        "patch_frames": settings.patch_size,
        "embedding_size": settings.embed_dim,
        "front_end": parameters,
        "labels": list(model.labels),
        "mids": machine_ids(model.labels),
        "versions": versions_of(choice),
        **({"weights": weight_files(model, choice)} if choice.format == "web" else {}),
    }


def machine_ids(labels: tuple[str, ...]) -> list[str]:
    """The AudioSet machine ids of labels; an empty string for other classes."""
    known = {name: mid for mid, name in AUDIOSET_CLASSES}
    return [known.get(label, "") for label in labels]


def labels_csv(metadata: Mapping[str, Any]) -> str:
    """
    A table `index,mid,display_name`.

    Names are always in double quotes, as sherpa-onnx requires. It cannot read double quotes in a name; for it they
    become single quotes.
    """
    rows = ["index,mid,display_name"]
    quote = "'" if metadata["format"] == "sherpa-onnx" else '""'
    for index, (mid, label) in enumerate(zip(metadata["mids"], metadata["labels"], strict=True)):
        name = " ".join(label.split()).replace('"', quote)
        rows.append(f'{index},{mid},"{name}"')
    return "\n".join(rows) + "\n"


def _outputs(has_steps: bool, format: str) -> list[str]:
    if format == "sherpa-onnx":
        return [PROBABILITIES]
    return [PROBABILITIES, EMBEDDINGS, *[STEPS] * (has_steps and format != "torch")]
