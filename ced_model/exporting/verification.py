# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares an export, run by its own runtime from its files, with the model and the feature extractor."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..feature_extraction_ced import CedFeatureExtractor
from ..modeling_ced import CedForAudioClassification
from ..runtimes import LoadedExport
from .recordings import cut_clips

BATCH_SIZES = (1, 3)
NUM_LENGTHS = 5

# Largest differences in probability that are accepted, by `quantization` of the metadata.
TOLERANCES = {"none": 1e-4, "fp16": 1e-2, "int8": 0.25}
# The same for embeddings, as parts of the largest absolute value in one.
EMBEDDING_TOLERANCES = {"none": 1e-3, "fp16": 1e-2, "int8": 0.5}


class Check(NamedTuple):
    """How far an export is from torch for clips of one length."""

    seconds: float
    batch_size: int
    probabilities: float  # the largest difference
    embeddings: float | None  # the largest difference, as a part of the embeddings' largest absolute value


class VerificationError(RuntimeError):
    """An export does not compute what the model does."""


def verify(
    export: LoadedExport,
    model: CedForAudioClassification,
    extractor: CedFeatureExtractor,
    recordings: Sequence[np.ndarray],
) -> list[Check]:
    """
    Compares batches of one and of several clips of lengths from the shortest to the longest.

    Raises:
        VerificationError: where probabilities or embeddings differ by more than the quantization allows.
    """
    metadata = export.metadata
    checks = []
    lengths = np.geomspace(metadata["min_samples"], metadata["max_samples"], NUM_LENGTHS).round().astype(int).tolist()
    for number, samples in enumerate(lengths):
        for batch_size in BATCH_SIZES:
            clips = cut_clips(recordings, samples, batch_size, start=number * len(BATCH_SIZES) + batch_size)
            checks.append(_check(export, model, extractor, clips))
    return checks


def _check(
    export: LoadedExport, model: CedForAudioClassification, extractor: CedFeatureExtractor, clips: np.ndarray
) -> Check:
    metadata = export.metadata
    mel = torch.stack([extractor.log_mel(torch.from_numpy(clip)) for clip in clips])
    expected = compute_expected(model, mel, metadata["activation"])
    seconds = clips.shape[1] / metadata["sampling_rate"]
    try:
        outputs = export.run(clips if metadata["input"] == "waveform" else mel.contiguous().numpy())
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())
        raise VerificationError(f"{len(clips)} clips of {seconds:.2f} s cannot be run: {reason}") from error
    difference = float(np.abs(outputs["probabilities"] - expected["probabilities"]).max())
    relative = None
    if "embeddings" in outputs:
        scale = np.abs(expected["embeddings"]).max()
        relative = float(np.abs(outputs["embeddings"] - expected["embeddings"]).max() / scale)
    check = Check(seconds, len(clips), difference, relative)
    _judge(check, metadata["quantization"])
    return check


def compute_expected(model: CedForAudioClassification, mel: torch.Tensor, activation: str) -> dict[str, np.ndarray]:
    """What torch says of mel spectrograms: `probabilities` and `embeddings`."""
    with torch.inference_mode():
        logits: Any = model(mel).logits
        if activation != "none":
            logits = logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=-1)
        embeddings = model.encoder(mel).pooler_output
    return {"probabilities": logits.numpy(), "embeddings": embeddings.numpy()}


def _judge(check: Check, quantization: str) -> None:
    where = f"clips of {check.seconds:.2f} s in a batch of {check.batch_size}"
    if not check.probabilities <= TOLERANCES[quantization]:  # NaN is no match either
        raise VerificationError(
            f"{where} differ from torch by {check.probabilities:.2g} in probability,"
            f" more than {TOLERANCES[quantization]:g}"
        )
    if check.embeddings is not None and not check.embeddings <= EMBEDDING_TOLERANCES[quantization]:
        raise VerificationError(
            f"{where} have embeddings that differ from torch's by {check.embeddings:.2g} of their size,"
            f" more than {EMBEDDING_TOLERANCES[quantization]:g}"
        )
