# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a student on recordings from series that were not used in training."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit

import yamnet
from ced_model import CedFeatureExtractor, CedForAudioClassification
from ced_model.audioset import AUDIOSET_LABELS
from ced_model.evaluation import ClassificationMetrics, classification_metrics
from ced_model.training.distillation.options import DistillationArguments
from ced_model.training.distillation.plan import make_training_arguments
from ced_model.training.distillation.training import make_plan, make_trainer
from named_sounds import NAMED_SOUNDS
from scenes import Shards
from sources import SAMPLING_RATE, Bank

CLIP_S = 10.0
TAG = 0.5  # minimum probability of the teacher's tags

Scorer = Callable[[np.ndarray], np.ndarray]  # log-mels (batch, 64, frames) → probabilities (batch, 527)


def scorer_of(model: CedForAudioClassification) -> Scorer:
    @torch.inference_mode()
    def score(log_mels: np.ndarray) -> np.ndarray:
        return model.eval()(torch.from_numpy(np.asarray(log_mels, np.float32))).logits.sigmoid().numpy()

    return score


def constant(probabilities: np.ndarray) -> Scorer:
    """Returns the same probabilities for every clip."""
    return lambda log_mels: np.tile(probabilities, (len(log_mels), 1))


def heldout_recordings(work: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (source, waveform of up to 10 s) for each held-out recording."""
    bank = Bank(work / "bank")
    for index, row in enumerate(bank.rows):
        if row["split"] == "heldout":
            yield row["source"], bank.waveform(index)[: int(CLIP_S * SAMPLING_RATE)]


def agreement(work: Path, score: Scorer) -> dict[str, ClassificationMetrics]:
    """Agreement with the teacher's tags, on held-out scenes and on single held-out recordings."""
    return {"scenes": on_scenes(work, score), "recordings": on_recordings(work, score)}


def on_scenes(work: Path, score: Scorer) -> ClassificationMetrics:
    shards = Shards(work / "shards" / "heldout")
    taught, scores = [], []
    for name in shards.names:
        log_mels, logits, _ = shards.arrays[name]
        taught.append(_all_classes(expit(logits[:].astype(np.float32)).mean(1)))
        scores += [score(log_mels[start : start + 32]) for start in range(0, len(log_mels), 32)]
    return metrics_of(np.concatenate(taught), np.concatenate(scores))


def under_augmentation(work: Path, student: Path) -> dict[str, float]:
    """Agreement with the store's targets on its held-out scenes, with the same augmentation as for the teacher."""
    arguments = DistillationArguments(batch_size=16, workers=0)
    plan = make_plan(work / "store", student, work / "report" / "unused", arguments)
    metrics = make_trainer(plan, make_training_arguments(plan)).evaluate()
    return {name: metrics[f"eval_{name}"] for name in ("bce", "prior_bce", "top1", "mAP")}


def on_recordings(work: Path, score: Scorer) -> ClassificationMetrics:
    extractor, teacher = CedFeatureExtractor(), yamnet.teacher()
    taught, scores = [], []
    for _, waveform in heldout_recordings(work):
        taught.append(teacher(waveform[None])[0])
        scores.append(score(_log_mel(extractor, waveform))[0])
    return metrics_of(np.stack(taught), np.stack(scores))


def _log_mel(extractor: CedFeatureExtractor, waveform: np.ndarray) -> np.ndarray:
    return extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="np")["input_values"]


def _all_classes(probabilities: np.ndarray) -> np.ndarray:
    scores = np.zeros((len(probabilities), len(AUDIOSET_LABELS)), np.float32)
    scores[:, yamnet.teacher().class_indices] = probabilities
    return scores


def metrics_of(taught: np.ndarray, scores: np.ndarray) -> ClassificationMetrics:
    tags = taught >= TAG
    has_tag = tags.any(1)
    return classification_metrics(tags[has_tag].astype(np.float32), scores[has_tag], labels=AUDIOSET_LABELS)


def name_sounds(work: Path, score: Scorer, *, top_k: int = 5) -> list[dict[str, Any]]:
    """One row per recording of the twelve sounds: rank of the sound and top 5, of the student and of the teacher."""
    extractor, rows = CedFeatureExtractor(), []
    for source, waveform in heldout_recordings(work):
        for sound, (labels, patterns) in NAMED_SOUNDS.items():
            if not any(fnmatch(source, pattern) for pattern in patterns):
                continue
            row: dict[str, Any] = {"sound": sound, "source": source}
            by_student = score(_log_mel(extractor, waveform))[0]
            for who, scores in (("student", by_student), ("teacher", yamnet.teacher()(waveform[None])[0])):
                order = np.argsort(-scores, kind="stable")
                ranks = [int(np.flatnonzero(order == AUDIOSET_LABELS.index(label))[0]) + 1 for label in labels]
                row[who] = {"rank": min(ranks), "top": [(AUDIOSET_LABELS[i], float(scores[i])) for i in order[:top_k]]}
            rows.append(row)
    return rows


def named(rows: list[dict[str, Any]], *, who: str = "student", top_k: int = 5) -> dict[str, bool]:
    """For each of the twelve sounds, whether it is in the top 5 for most of its recordings."""
    places = {sound: [row[who]["rank"] for row in rows if row["sound"] == sound] for sound in NAMED_SOUNDS}
    return {sound: 2 * sum(rank <= top_k for rank in ranks) > len(ranks) for sound, ranks in places.items()}
