# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ONNX as sherpa-onnx's C++ expects it, and a comparison with what that makes of it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..feature_extraction_ced import CedFeatureExtractor
from ..runtimes import LoadedExport
from ..runtimes.formats import SUPPORT, Format
from .metadata import LABELS_FILE
from .verification import VerificationError

# A process of its own: where sherpa-onnx does not like a model, it ends the process.
SCRIPT = """
import json, sys
import numpy as np
import sherpa_onnx

model, labels, rate, top_k, audio = sys.argv[1:]
config = sherpa_onnx.AudioTaggingConfig(
    model=sherpa_onnx.AudioTaggingModelConfig(ced=model), labels=labels, top_k=int(top_k)
)
assert config.validate(), config
tagger = sherpa_onnx.AudioTagging(config)
found = []
for samples in np.load(audio).values():
    stream = tagger.create_stream()
    stream.accept_waveform(int(rate), samples)
    found.append([(event.index, event.name, event.prob) for event in tagger.compute(stream)])
print("\\x1e" + json.dumps(found))
"""


class SherpaComparison(NamedTuple):
    """How far sherpa-onnx, whose features are Kaldi's, is from torch."""

    recordings: int
    probability: float  # the largest difference
    mean_probability: float  # the mean difference of all classes
    top_1: int  # recordings with the same best class


def check_front_end(extractor: CedFeatureExtractor) -> None:
    """Raises `ValueError` for another front end than that of the published models, which is in sherpa-onnx's C++."""
    theirs = CedFeatureExtractor()
    for field in ("sampling_rate", "feature_size", "n_fft", "win_size", "hop_size", "f_min", "f_max", "center"):
        ours, expected = getattr(extractor, field), getattr(theirs, field)
        if field == "f_max":
            ours, expected = ours or extractor.sampling_rate / 2, expected or theirs.sampling_rate / 2
        if ours != expected:
            raise ValueError(f"sherpa-onnx has a front end of its own, with {field}={expected}; this model has {ours}")


def compare_with_sherpa(
    folder: Path, export: LoadedExport, extractor: CedFeatureExtractor, recordings: Sequence[np.ndarray]
) -> SherpaComparison:
    """
    Runs `AudioTagging` of the PyPI package on recordings.

    Raises:
        VerificationError: if it does not take the model, or gives other classes or other names.
    """
    metadata = export.metadata
    labels = [" ".join(label.split()).replace('"', "'") for label in metadata["labels"]]
    clips = [clip for clip in recordings if len(clip) >= metadata["min_samples"]]
    differences, same = [], 0
    for clip, events in zip(clips, _run_sherpa(folder, clips, extractor.sampling_rate, len(labels)), strict=True):
        if sorted((index, name) for index, name, _ in events) != list(enumerate(labels)):
            raise VerificationError("sherpa-onnx reads other names from the labels than the model has")
        scores = np.zeros(len(labels))
        for index, _, probability in events:
            scores[index] = probability
        mel = extractor.log_mel(torch.from_numpy(clip))[None].contiguous().numpy()
        expected = export.run(mel)["probabilities"][0]
        differences.append(np.abs(scores - expected))
        same += int(scores.argmax() == expected.argmax())
    return SherpaComparison(len(clips), float(np.max(differences)), float(np.mean(differences)), same)


def _run_sherpa(
    folder: Path, clips: Sequence[np.ndarray], sampling_rate: int, top_k: int
) -> list[list[tuple[int, str, float]]]:
    model = folder / SUPPORT[Format.SHERPA_ONNX].file
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, *clips)
        file.flush()
        arguments = [str(model), str(folder / LABELS_FILE), str(sampling_rate), str(top_k), file.name]
        process = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True)
    _, mark, found = process.stdout.rpartition("\x1e")
    if process.returncode or not mark:
        lines = [line for line in (process.stdout + process.stderr).splitlines() if line.strip()]
        raise VerificationError(f"sherpa-onnx cannot run it: {lines[-1] if lines else process.returncode}")
    return json.loads(found)
