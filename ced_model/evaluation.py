# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model on labelled clips: mean average precision, AUC, d-prime, top-1 and calibration."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .audio import MIX, describe
from .classes import ClassChoice, choice_scores, choose_classes
from .confidence import Interval, brier, calibration_error, calibration_note, confidence_intervals, top_1
from .confusion import confusion_matrix
from .input_list import Input
from .labelled import (
    MULTI_LABEL,
    SINGLE_LABEL,
    LabelledClips,
    Skipped,
    match_clips,
    read_labelled,
)
from .packages import require
from .tagger import AudioTagger

if TYPE_CHECKING:
    from .modeling_ced import CedForAudioClassification

SOFT_THRESHOLD = 0.5  # soft targets from here on count as present


class ClassMetrics(NamedTuple):
    """
    Metrics of one class over all clips; NaN if not defined.

    Attributes:
        label: Name of the class.
        positives: Number of clips with the class.
        average_precision: Area under the precision-recall curve, as in scikit-learn's `average_precision_score`; NaN
            without positives.
        auc: Area under the ROC curve; NaN without positives, or without negatives.
        d_prime: `sqrt(2) · z(auc)`, where z is the inverse of the normal distribution; infinite for an AUC of 0 or 1.
        best_f1: The highest F1 of any threshold on these clips; NaN without positives.
        best_threshold: The threshold with this F1; the highest one if there are several.
    """

    label: str
    positives: int
    average_precision: float
    auc: float
    d_prime: float
    best_f1: float
    best_threshold: float


@dataclass(frozen=True)
class ClassificationMetrics:
    """
    Metrics of scores on labelled clips; NaN if not defined.

    Attributes:
        mean_average_precision: Mean over the classes that have positives (macro mAP).
        mean_auc: Mean over the classes that have positives and negatives.
        d_prime: d-prime of `mean_auc`, as in the AudioSet papers.
        top_1: Share of the clips with labels whose best-scored class (the first of equal ones) is one of their labels.
        calibration_error: Expected calibration error (ECE) with 15 bins of equal width: the mean of |mean score − share
            of true ones| over the bins, weighted by their size. For single-label data, over the best-scored class of
            each clip; for multi-label data, over all pairs of clip and class.
        brier: Brier score, the mean squared difference between score and target. For single-label data, summed over the
            classes of a clip (0 to 2); for multi-label data, over all pairs of clip and class (0 to 1).
        problem_type: `"single_label_classification"` or `"multi_label_classification"`.
        num_clips: Number of clips.
        per_class: A [`ClassMetrics`] for each class, in order.
    """

    mean_average_precision: float
    mean_auc: float
    d_prime: float
    top_1: float
    calibration_error: float
    brier: float
    problem_type: str
    num_clips: int
    per_class: list[ClassMetrics] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without positives."""
        return len(self.per_class)

    @property
    def num_classes_present(self) -> int:
        """Number of classes that have positives."""
        return sum(item.positives > 0 for item in self.per_class)

    def summary(self) -> dict[str, float]:
        """The metrics by short names, for a log or the `compute_metrics` of a `Trainer`."""
        return {
            "mAP": self.mean_average_precision,
            "mAUC": self.mean_auc,
            "d_prime": self.d_prime,
            "top_1": self.top_1,
            "ECE": self.calibration_error,
            "Brier": self.brier,
        }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """
    Scores of a model for labelled clips, and their metrics.

    Attributes:
        metrics: Metrics of the clips that could be read.
        clips: These clips, with targets of 0 and 1.
        scores: Probabilities, float32 of shape `(clips, classes)`.
        failed: Clips that could not be read, with the reason.
        notes: Remarks on the evaluation, one line each.
    """

    metrics: ClassificationMetrics
    clips: LabelledClips = field(repr=False)
    scores: np.ndarray = field(repr=False)
    failed: list[Skipped] = field(repr=False)
    notes: list[str] = field(repr=False)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % confidence intervals of the metrics, by the names of [`ClassificationMetrics.summary`]."""
        found = confidence_intervals(self.clips.targets, self.scores, self.metrics.problem_type)
        low, high = map(d_prime, found["mAUC"])
        return {name: found.get(name, (low, high)) for name in self.metrics.summary()}

    @property
    def calibration_note(self) -> str | None:
        """Explains a large calibration error and what to do about it; None if it is below 0.1."""
        return calibration_note(self.clips.targets, self.scores, self.metrics.problem_type)

    @property
    def confusion(self) -> np.ndarray | None:
        """See [`confusion_matrix`]; None for multi-label data."""
        is_single = self.metrics.problem_type == SINGLE_LABEL
        return confusion_matrix(self.clips.targets, self.scores) if is_single else None


def classification_metrics(
    targets: np.ndarray,
    scores: np.ndarray,
    *,
    labels: Sequence[str] | None = None,
    problem_type: str = MULTI_LABEL,
) -> ClassificationMetrics:
    """
    Compares scores with targets.

    Args:
        targets: 0 or 1, of shape `(clips, classes)`.
        scores: Probabilities, of shape `(clips, classes)`.
        labels: Names of the classes, by default their indices.
        problem_type: `"single_label_classification"`, where each clip has one class, or
            `"multi_label_classification"`. It determines how calibration is computed.

    Raises:
        ValueError: for shapes that differ, no clips, no positives, targets that are neither 0 nor 1, or scores that are
            not probabilities.
        ImportError: if the extra `[train]` is not installed.
    """
    targets, scores = np.asarray(targets), np.asarray(scores)
    _check_arrays(targets, scores, problem_type)
    names = list(map(str, range(targets.shape[1]))) if labels is None else list(labels)
    if len(names) != targets.shape[1]:
        raise ValueError(f"There are {len(names)} `labels`, but {targets.shape[1]} classes.")
    hits = targets.astype(bool)
    per_class = [_class_metrics(name, hits[:, index], scores[:, index]) for index, name in enumerate(names)]
    each = np.ones((1, len(hits)))
    mean_auc = _mean([item.auc for item in per_class])
    return ClassificationMetrics(
        mean_average_precision=_mean([item.average_precision for item in per_class]),
        mean_auc=mean_auc,
        d_prime=d_prime(mean_auc),
        top_1=float(top_1(hits, scores, each)[0]),
        calibration_error=float(calibration_error(hits, scores, problem_type, each)[0]),
        brier=float(brier(hits, scores, problem_type, each)[0]),
        problem_type=problem_type,
        num_clips=len(hits),
        per_class=per_class,
    )


def evaluate(
    model: "AudioTagger | CedForAudioClassification | str | os.PathLike[str]",
    data: LabelledClips | str | os.PathLike,
    *,
    label_map: Mapping[str, str | None] | None = None,
    skip_unknown: bool = False,
    channel: str | int = MIX,
    on_audio: Callable[[float], object] | None = None,
    on_clip: Callable[[str, str | None], object] | None = None,
    read: Callable[[list[str]], Iterable[Input]] | None = None,
    **options: Any,
) -> Evaluation:
    """
    Tags labelled clips and compares the scores with the labels.

    Clips are tagged by [`AudioTagger`], so they may have any format and length. Scores are sigmoids; with a model whose
    `problem_type` is `"single_label_classification"`, softmaxes over all of its classes. If the clips have only some of
    the model's classes, the others are ignored.

    Args:
        model: A tagger, a model, or the folder or Hub id of one.
        data: Clips, or a folder or table for [`read_labelled`].
        label_map: The labels that the clips have for classes and groups of the model, see [`AudioTagger`].
        skip_unknown: Ignore labels that the model does not have, and in single-label data their clips.
        channel: As for [`AudioTagger`].
        on_audio: Called with the number of seconds each time more audio has been scored.
        on_clip: Called with the path of each clip, in order, and the reason why it cannot be read, or None.
        read: Returns the audio for the paths in `data`, in order, if these are not paths of files.
        options: Options for [`read_labelled`], such as `split`.

    Returns:
        The [`Evaluation`]. Its `failed` has the clips that [`read_labelled`] skipped, then those that cannot be read.
        Soft targets count as present from 0.5 on, which is reported in its `notes`.

    Raises:
        ValueError: if the model lacks classes (an `UnknownLabelsError` of `ced_model.labelled`), no clip can be read,
            there is only one class to choose from, or the model has no probabilities.
        ImportError: if the extra `[train]` is not installed.
    """
    require(("sklearn",), "evaluation")  # checked before the work
    tagger = model if isinstance(model, AudioTagger) else AudioTagger(model)
    if tagger.problem_type == "regression":
        raise ValueError("A regression model has no class probabilities and cannot be evaluated.")
    if not isinstance(data, LabelledClips):
        names = [choice.label for choice in choose_classes(tagger.labels, label_map=label_map)]
        data = read_labelled(data, model_classes=names, **options)
    data, choices = match_clips(data, tagger.labels, label_map, skip_unknown)
    clips, notes = _with_hard_targets(data)
    scores, failed = _score(tagger, clips, choices, channel, on_audio, on_clip, read)
    unread = {item.path for item in failed}
    kept = [index for index, path in enumerate(clips.paths) if path not in unread]
    if not kept:
        raise ValueError(
            f"None of {len(clips)} clips can be read, such as {describe(failed[0].path)}: {failed[0].reason}"
        )
    clips, scores = clips.select(kept), scores[kept]
    metrics = classification_metrics(clips.targets, scores, labels=clips.labels, problem_type=clips.problem_type)
    return Evaluation(metrics, clips, scores, [*data.skipped, *failed], notes)


def d_prime(auc: float) -> float:
    """
    `sqrt(2) · z(auc)`: the distance between the scores of positives and negatives in standard deviations, if both are
    normally distributed. Infinite for an AUC of 0 or 1.
    """
    from scipy.special import ndtri  # comes with scikit-learn

    return math.sqrt(2) * float(ndtri(auc))


# Figures


def _class_metrics(label: str, hits: np.ndarray, scores: np.ndarray) -> ClassMetrics:
    """Metrics of one class, from `hits` and `scores` of shape `(clips,)`."""
    from sklearn import metrics

    positives = int(hits.sum())
    if not positives:
        return ClassMetrics(label, 0, *[math.nan] * 5)
    auc = float(metrics.roc_auc_score(hits, scores)) if positives < len(hits) else math.nan
    precision, recall, thresholds = metrics.precision_recall_curve(hits, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))  # the last point has no threshold, and an F1 of 0
    average_precision = float(metrics.average_precision_score(hits, scores))
    return ClassMetrics(
        label, positives, average_precision, auc, d_prime(auc), float(f1[best]), float(thresholds[best])
    )


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _check_arrays(targets: np.ndarray, scores: np.ndarray, problem_type: str) -> None:
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(
            f"`targets` and `scores` must both be of shape (clips, classes), got {targets.shape} and {scores.shape}."
        )
    if problem_type not in (SINGLE_LABEL, MULTI_LABEL):
        raise ValueError(f"`problem_type={problem_type!r}` must be {SINGLE_LABEL!r} or {MULTI_LABEL!r}.")
    if not targets.size:
        raise ValueError(f"Nothing to compare: {len(targets)} clips and {targets.shape[1]} classes.")
    if not ((targets == 0) | (targets == 1)).all():
        raise ValueError("`targets` must be 0 or 1; make soft targets binary, for example with `targets >= 0.5`.")
    if not np.isfinite(scores).all():
        clip, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(
            f"`scores` must be probabilities; that of clip {clip}, class {column} is {scores[clip, column]}."
        )
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(
            f"`scores` must be probabilities from 0 to 1, got {scores.min():.3g} to {scores.max():.3g}; apply a"
            " sigmoid or softmax to logits."
        )
    if not targets.any():
        raise ValueError("No clip has any of the classes.")
    if problem_type == SINGLE_LABEL and (targets.sum(axis=1) != 1).any():
        raise ValueError("In single-label data, each clip must have exactly one class.")


# Scores


def _with_hard_targets(clips: LabelledClips) -> tuple[LabelledClips, list[str]]:
    if not clips.has_soft_targets:
        return clips, list(clips.notes)
    targets = (clips.targets >= SOFT_THRESHOLD).astype(np.float32)
    note = f"soft targets: from {SOFT_THRESHOLD} on, a class counts as present"
    return replace(clips, targets=targets), [*clips.notes, note]


def _score(
    tagger: AudioTagger,
    clips: LabelledClips,
    choices: list[ClassChoice],
    channel: str | int,
    on_audio: Callable[[float], object] | None,
    on_clip: Callable[[str, str | None], object] | None,
    read: Callable[[list[str]], Iterable[Input]] | None,
) -> tuple[np.ndarray, list[Skipped]]:
    """Scores of shape `(clips, len(choices))`, 0 for clips that cannot be read, and a list of these clips."""
    scores = np.zeros((len(clips), len(choices)), np.float32)
    every = np.empty(len(tagger.labels), np.float32)
    failed = []
    places: list[str | None] = []

    def sources() -> Iterator[Any]:
        for item in read(clips.paths) if read is not None else (Input(path, path) for path in clips.paths):
            places.append(item.place)
            yield item.source

    results = tagger.tag(sources(), top_k=len(tagger.labels), channel=channel, on_audio=on_audio)
    for index, result in enumerate(results):
        reason = None if result.error is None else _reason(result.error, result.name)
        if reason is not None and places[index] is not None:
            reason = f"{places[index]}: {reason}"
        if reason is None:
            every[[tag.index for tag in result.tags]] = [tag.score for tag in result.tags]
            scores[index] = choice_scores(every, choices)
        else:
            failed.append(Skipped(clips.paths[index], reason))
        if on_clip is not None:
            on_clip(clips.paths[index], reason)
    return scores, failed


def _reason(error: Exception, name: str) -> str:
    return " ".join(str(error).split()).removeprefix(f"{name}: ") or type(error).__name__
