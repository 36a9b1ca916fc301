# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Requirements of sherpa-onnx, and a comparison of its scores with those of the model."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..log_mel import FrontEnd, log_mel
from ..messages import OptionError
from .formats import FORMATS
from .metadata import LABELS_FILE
from .programs import LoadedExport
from .verification import VerificationError

# Runs in its own process, since sherpa-onnx ends the process if it rejects a model.
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
    """Differences of sherpa-onnx, which computes Kaldi's features, from the same model with this package's features."""

    recordings: int
    probability: float  # the largest difference
    mean_probability: float  # the mean difference over all classes
    top_1: int  # recordings with the same best class


def check_front_end(front_end: FrontEnd) -> None:
    """Raises an `OptionError` unless the front end is that of the published models, the only one of sherpa-onnx."""
    theirs = FrontEnd(f_max=8000)
    ours = replace(front_end, f_max=front_end.f_max or front_end.sampling_rate / 2)
    for field, expected in asdict(theirs).items():
        if (value := getattr(ours, field)) != expected:
            raise OptionError(
                "format",
                "sherpa-onnx",
                f"onnx or openvino for this model: the features of sherpa-onnx have {field}={expected}, but the model"
                f" requires {value}",
            )


def compare_with_sherpa(
    folder: Path, export: LoadedExport, front_end: FrontEnd, recordings: Sequence[np.ndarray]
) -> SherpaComparison:
    """
    Runs `AudioTagging` of the PyPI package on recordings.

    Raises:
        VerificationError: if it rejects the model, or returns other classes or names.
    """
    labels = [" ".join(label.split()).replace('"', "'") for label in export.metadata["labels"]]
    clips = [clip for clip in recordings if len(clip) >= front_end.min_samples]
    differences, same = [], 0
    for clip, events in zip(clips, _run_sherpa(folder, clips, front_end.sampling_rate, len(labels)), strict=True):
        if sorted((index, name) for index, name, _ in events) != list(enumerate(labels)):
            raise VerificationError("sherpa-onnx reads other names from labels.csv than the model has")
        scores = np.zeros(len(labels))
        for index, _, probability in events:
            scores[index] = probability
        expected = export.run(log_mel(clip, front_end)[None])["probabilities"][0]
        differences.append(np.abs(scores - expected))
        same += int(scores.argmax() == expected.argmax())
    return SherpaComparison(len(clips), float(np.max(differences)), float(np.mean(differences)), same)


def _run_sherpa(
    folder: Path, clips: Sequence[np.ndarray], sampling_rate: int, top_k: int
) -> list[list[tuple[int, str, float]]]:
    model = folder / FORMATS["sherpa-onnx"].file
    with tempfile.TemporaryDirectory() as temporary:  # a temporary file could not be opened twice on Windows
        file = Path(temporary, "clips.npz")
        np.savez(file, *clips)
        arguments = [str(model), str(folder / LABELS_FILE), str(sampling_rate), str(top_k), str(file)]
        process = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True)
    _, mark, found = process.stdout.rpartition("\x1e")
    if process.returncode or not mark:
        lines = [line for line in (process.stdout + process.stderr).splitlines() if line.strip()]
        raise VerificationError(f"sherpa-onnx cannot run the export: {lines[-1] if lines else process.returncode}")
    return json.loads(found)
