# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares an export, run by its own runtime, with the float32 model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..calibration import cut_clips
from ..engines import Choice, Engine, Outputs, is_installed, one_line_error, open_engine
from ..log_mel import log_mel
from ..model_folder import ModelFolder
from .programs import LoadedExport

BATCH_SIZES = (1, 3)
NUM_LENGTHS = 5

# Largest accepted differences in probability.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "int8": 0.25}
# The same for embeddings, relative to their largest absolute value.
EMBEDDING_TOLERANCES = {"float32": 1e-3, "float16": 1e-2, "int8": 0.5}


class Check(NamedTuple):
    """
    Differences of an export from the model, for a batch of clips of one length.

    Attributes:
        seconds: Length of the clips.
        batch_size: Number of clips.
        probabilities: The largest absolute difference.
        embeddings: The largest absolute difference, divided by the largest absolute value; None if the export has no
            embeddings.
    """

    seconds: float
    batch_size: int
    probabilities: float
    embeddings: float | None


class VerificationError(RuntimeError):
    """The outputs of an export differ from those of the model. The message is one line."""


def open_references(model: ModelFolder, num_threads: int) -> list[Engine]:
    """The float32 model in ONNX Runtime, and in torch if that is installed."""
    names = ["onnx"] + (["torch"] if model.path is not None and is_installed("torch") else [])
    return [open_engine(model, Choice(name, "float32", "cpu"), num_threads) for name in names]


def verify(
    export: LoadedExport, model: ModelFolder, references: Sequence[Engine], recordings: Sequence[np.ndarray]
) -> list[Check]:
    """
    Compares batches of one clip and of several clips, of lengths from the shortest to the longest.

    Raises:
        VerificationError: if probabilities or embeddings differ by more than the compute type allows.
    """
    lengths = np.geomspace(export.metadata["min_samples"], export.metadata["max_samples"], NUM_LENGTHS).round()
    checks = []
    for number, samples in enumerate(lengths.astype(int).tolist()):
        for batch_size in BATCH_SIZES:
            clips = cut_clips(recordings, samples, batch_size, start=number * len(BATCH_SIZES) + batch_size)
            log_mels = np.stack([log_mel(clip, model.front_end) for clip in clips])
            expected = [reference.run(log_mels, is_alone=True) for reference in references]
            checks.append(_check(export, clips, log_mels, expected))
    return checks


def _check(export: LoadedExport, clips: np.ndarray, log_mels: np.ndarray, expected: Sequence[Outputs]) -> Check:
    metadata = export.metadata
    seconds = clips.shape[1] / metadata["sampling_rate"]
    try:
        outputs = export.run(clips if metadata["input"] == "waveform" else log_mels)
    except Exception as error:  # of any runtime
        reason = one_line_error(error)
        raise VerificationError(f"{len(clips)} clips of {seconds:.2f} s cannot be run: {reason}") from error
    difference = max(float(np.abs(outputs["probabilities"] - each.probabilities).max()) for each in expected)
    relative = None
    if "embeddings" in outputs:
        scale = np.abs(expected[0].embeddings).max()
        relative = max(float(np.abs(outputs["embeddings"] - each.embeddings).max() / scale) for each in expected)
    check = Check(seconds, len(clips), difference, relative)
    judge(check, metadata["compute_type"])
    return check


def judge(check: Check, compute_type: str) -> None:
    """Raises a [`VerificationError`] if the differences are larger than the compute type allows."""
    where = f"clips of {check.seconds:.2f} s in a batch of {check.batch_size}"
    allowed, of_embeddings = TOLERANCES[compute_type], EMBEDDING_TOLERANCES[compute_type]
    if not check.probabilities <= allowed:  # also true for NaN
        raise VerificationError(
            f"{where} differ from the model by {check.probabilities:.2g} in probability, more than {allowed:g}"
        )
    if check.embeddings is not None and not check.embeddings <= of_embeddings:
        raise VerificationError(
            f"{where} have embeddings that differ from the model's by a share of {check.embeddings:.2g}, more than"
            f" {of_embeddings:g}"
        )
