# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""How a student does on recordings whose sources it never heard."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch

import yamnet
from ced_model import CedFeatureExtractor, CedForAudioClassification
from ced_model.audioset import AUDIOSET_LABELS
from named_sounds import NAMED_SOUNDS
from scenes import heldout_recordings
from sources import SAMPLING_RATE

Scorer = Callable[[np.ndarray], np.ndarray]  # float32 samples at 16 kHz → probabilities (527,)


def scorer_of(model: CedForAudioClassification) -> Scorer:
    extractor = CedFeatureExtractor()

    def score(waveform: np.ndarray) -> np.ndarray:
        inputs = extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        with torch.inference_mode():
            return model(**inputs).logits[0].sigmoid().numpy()

    return score


def name_sounds(work: Path, score: Scorer, *, top_k: int = 5) -> list[dict[str, Any]]:
    """A row for each recording of the twelve sounds: its place among the scores, the top 5, and the teacher's."""
    rows = []
    for source, waveform in heldout_recordings(work):
        for sound, (labels, patterns) in NAMED_SOUNDS.items():
            if not any(fnmatch(source, pattern) for pattern in patterns):
                continue
            row: dict[str, Any] = {"sound": sound, "source": source}
            for who, scores in (("student", score(waveform)), ("teacher", yamnet.teacher()(waveform[None])[0])):
                order = np.argsort(-scores, kind="stable")
                ranks = [int(np.flatnonzero(order == AUDIOSET_LABELS.index(label))[0]) + 1 for label in labels]
                row[who] = {"rank": min(ranks), "top": [(AUDIOSET_LABELS[i], float(scores[i])) for i in order[:top_k]]}
            rows.append(row)
    return rows


def named(rows: list[dict[str, Any]], *, who: str = "student", top_k: int = 5) -> dict[str, bool]:
    """Of each of the twelve sounds, whether most of its recordings have it in their top 5."""
    return {
        sound: 2 * sum(row[who]["rank"] <= top_k for row in rows if row["sound"] == sound)
        > sum(row["sound"] == sound for row in rows)
        for sound in NAMED_SOUNDS
    }
