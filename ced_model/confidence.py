# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Confidence intervals of evaluation metrics, and explanations of a large calibration error.

Intervals are those of the Bayesian bootstrap (Rubin 1981): all metrics are computed for many random weights of the
clips. Unlike drawing clips, weights leave no class without clips, and do not rank a clip against copies of itself.
"""

import math

import numpy as np

from .labelled import SINGLE_LABEL

CALIBRATION_BINS = 15
LEVEL = 0.95
REPLICATES, FEWEST_REPLICATES = 1000, 200
MOST_WORK = 1e9  # maximum clips · classes · replicates; larger evaluations get fewer replicates
BLOCK_PAIRS = 1e6  # number of weights per block
POOR_CALIBRATION = 0.1

Interval = tuple[float, float]


def confidence_intervals(
    targets: np.ndarray, scores: np.ndarray, problem_type: str, *, seed: int = 0
) -> dict[str, Interval]:
    """
    95 % confidence intervals of mean average precision, mean AUC, top-1, calibration error and Brier score.

    Args:
        targets: 0 or 1, of shape `(clips, classes)`.
        scores: Probabilities, of shape `(clips, classes)`.
        problem_type: As for `classification_metrics`.
        seed: Seed of the random weights.

    Returns:
        Lower and upper bound by the names `mAP`, `mAUC`, `top_1`, `ECE` and `Brier`; NaN if a metric is not defined or
        there is only one clip. The quantiles of the bootstrap are shifted so that their median is the metric. If all
        replicates are equal, for example because all clips are right, the interval is that of Clopper and Pearson for
        the share of clips that are not like these.
    """
    hits = np.asarray(targets).astype(bool)
    scores = np.asarray(scores, np.float64)
    number = len(hits)
    figures = weighted_figures(hits, scores, problem_type, np.ones((1, number)))
    if number < 2:
        return dict.fromkeys(figures, (math.nan, math.nan))
    rng = np.random.default_rng(seed)
    replicates = int(np.clip(MOST_WORK / hits.size, FEWEST_REPLICATES, REPLICATES))
    rows = max(1, int(BLOCK_PAIRS / number))
    blocks = [
        weighted_figures(hits, scores, problem_type, rng.exponential(size=(min(rows, replicates - start), number)))
        for start in range(0, replicates, rows)
    ]
    most = {"Brier": 2.0} if problem_type == SINGLE_LABEL else {}
    return {
        name: _interval(float(value[0]), np.concatenate([block[name] for block in blocks]), number, most.get(name, 1.0))
        for name, value in figures.items()
    }


def _interval(figure: float, drawn: np.ndarray, number: int, most: float) -> Interval:
    if math.isnan(figure):
        return math.nan, math.nan
    if np.ptp(drawn) < 1e-12:
        # The largest share of wrong clips in the population for which `number` right clips are still likely.
        rare = 1 - ((1 - LEVEL) / 2) ** (1 / number)
        return figure * (1 - rare), figure + (most - figure) * rare
    low, middle, high = np.quantile(drawn, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return max(0.0, float(figure + low - middle)), min(most, float(figure + high - middle))


def weighted_figures(
    hits: np.ndarray, scores: np.ndarray, problem_type: str, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics, each of shape `(replicates,)`, for clip weights of shape `(replicates, clips)`."""
    of_clips = np.ascontiguousarray(weights.T)
    precision, area = np.full((2, len(weights)), 0.0)
    present = np.flatnonzero(hits.any(axis=0))
    both = [column for column in present if not hits[:, column].all()]
    for column in present:
        precision_of, area_of = _ranking(hits[:, column], scores[:, column], of_clips)
        precision += precision_of / len(present)
        area += area_of / len(both) if column in both else 0
    return {
        "mAP": precision if len(present) else np.full(len(weights), math.nan),
        "mAUC": area if both else np.full(len(weights), math.nan),
        "top_1": top_1(hits, scores, weights),
        "ECE": calibration_error(hits, scores, problem_type, weights),
        "Brier": brier(hits, scores, problem_type, weights),
    }


def _ranking(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Average precision and area under the ROC curve of one class, equal to those of scikit-learn with `sample_weight`.

    `weights` is `(clips, replicates)`. Clips with equal scores are at the same threshold for the precision, and half of
    them count as higher for the area.
    """
    order = np.argsort(-scores, kind="stable")
    falling, positives = -scores[order], np.flatnonzero(hits[order])
    first = np.searchsorted(falling, falling[positives])  # first and last clip with the score of each positive
    end = np.searchsorted(falling, falling[positives], side="right")
    every = _sums(weights[order])
    mine = weights[order[positives]]
    found = _sums(mine)
    number = np.searchsorted(positives, [first, end])  # positives before `first` and `end`
    false = every[-1] - found[-1]
    precision = (mine * found[number[1]] / every[end]).sum(axis=0) / found[-1]
    false_before = (every[first] - found[number[0]] + every[end] - found[number[1]]) / 2
    with np.errstate(invalid="ignore", divide="ignore"):  # a class that all clips have has no area
        area = (mine * (false - false_before)).sum(axis=0) / (found[-1] * false)
    return precision, area


def _sums(weights: np.ndarray) -> np.ndarray:
    """Cumulative sums of rows, starting with 0."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def top_1(hits: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the labelled clips whose best-scored class (the first of equal ones) is one of their classes."""
    labelled = hits.any(axis=1)
    right = hits[np.arange(len(hits)), scores.argmax(axis=1)][labelled]
    return weights[:, labelled] @ right / weights[:, labelled].sum(axis=1)


def calibration_error(hits: np.ndarray, scores: np.ndarray, problem_type: str, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error, see `ClassificationMetrics`."""
    hits, confidence = _judged(hits, scores, problem_type)
    inner_edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.searchsorted(inner_edges, confidence)  # an edge belongs to the bin below it, as in scikit-learn
    surplus = np.zeros((len(hits), CALIBRATION_BINS))
    np.add.at(surplus, (np.arange(len(hits))[:, None], bins), confidence - hits)
    return np.abs(weights @ surplus).sum(axis=1) / (weights.sum(axis=1) * hits.shape[1])


def brier(hits: np.ndarray, scores: np.ndarray, problem_type: str, weights: np.ndarray) -> np.ndarray:
    """Brier score, see `ClassificationMetrics`."""
    squares = (scores.astype(np.float64) - hits) ** 2
    each = squares.sum(axis=1) if problem_type == SINGLE_LABEL else squares.mean(axis=1)
    return weights @ each / weights.sum(axis=1)


def _judged(hits: np.ndarray, scores: np.ndarray, problem_type: str) -> tuple[np.ndarray, np.ndarray]:
    """Hits and scores for calibration: the best-scored class of each clip for single-label data, else all classes."""
    if problem_type == SINGLE_LABEL:
        best = scores.argmax(axis=1)[:, None]
        hits, scores = np.take_along_axis(hits, best, axis=1), np.take_along_axis(scores, best, axis=1)
    return hits, scores.astype(np.float64)


def calibration_note(targets: np.ndarray, scores: np.ndarray, problem_type: str) -> str | None:
    """Explains a calibration error of at least 0.1 and what to do about it; None if it is smaller."""
    hits, scores = np.asarray(targets).astype(bool), np.asarray(scores)
    error = float(calibration_error(hits, scores, problem_type, np.ones((1, len(hits))))[0])
    if error < POOR_CALIBRATION:
        return None
    judged, confidence = _judged(hits, scores, problem_type)
    mean, share = float(confidence.mean()), float(judged.mean())
    what = "best scores of a clip" if problem_type == SINGLE_LABEL else "scores"
    true = "are right" if problem_type == SINGLE_LABEL else "belong to classes that are present"
    how = "too low" if mean - share <= -error / 2 else "too high" if mean - share >= error / 2 else "uneven"
    return (
        f"ECE is large because scores are {how} as probabilities for these clips: the {what} average {mean:.2f}, and"
        f" {share:.0%} {true}. The ranking (mAP, mAUC, top-1) is not affected. Instead of 0.5, use the best threshold"
        " of each class on such clips."
    )
