# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals, confusion matrices and matched labels, compared with scikit-learn and SciPy."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from ced_model import AUDIOSET_LABELS, read_label_map
from ced_model.confidence import calibration_note, confidence_intervals, weighted_figures
from ced_model.confusion import confusion_matrix, make_picture, most_confused
from ced_model.evaluation import classification_metrics
from ced_model.labelled import MULTI_LABEL, SINGLE_LABEL, LabelledClips, UnknownLabelsError, match_clips

HEADLINE = ("mAP", "mAUC", "top_1", "ECE", "Brier")


def single(rng: np.random.Generator, clips: int, classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Targets with one class per clip and each class at least once, and scores that are mostly right."""
    targets = np.eye(classes)[np.append(np.arange(classes), rng.integers(classes, size=clips - classes))]
    scores = rng.random((clips, classes)) + sharpness * targets
    return targets, scores / scores.sum(axis=1, keepdims=True)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 10**6]), st.sampled_from([SINGLE_LABEL, MULTI_LABEL]))
def test_weighted_figures_are_those_of_scikit_learn(seed: int, steps: int, problem_type: str) -> None:
    """With and without ties; weights of one give the unweighted metrics."""
    rng = np.random.default_rng(seed)
    targets, scores = single(rng, 12, 3, 0.5)
    if problem_type == MULTI_LABEL:
        targets[rng.random(targets.shape) < 0.3] = 1
    scores = np.round(scores * steps) / steps
    weights = rng.exponential(size=(4, 12))
    hits = targets.astype(bool)
    found = weighted_figures(hits, scores, problem_type, weights)
    for row, weight in enumerate(weights):
        present = [c for c in range(3) if 0 < hits[:, c].sum() < 12]
        precisions = [
            metrics.average_precision_score(hits[:, c], scores[:, c], sample_weight=weight)
            for c in range(3)
            if hits[:, c].any()
        ]
        areas = [metrics.roc_auc_score(hits[:, c], scores[:, c], sample_weight=weight) for c in present]
        squares = ((scores - targets) ** 2).sum(axis=1) / (1 if problem_type == SINGLE_LABEL else 3)
        assert found["mAP"][row] == pytest.approx(np.mean(precisions), abs=1e-12)
        assert found["mAUC"][row] == pytest.approx(np.mean(areas) if areas else math.nan, abs=1e-12, nan_ok=True)
        assert found["Brier"][row] == pytest.approx(np.average(squares, weights=weight), abs=1e-12)
        if problem_type == SINGLE_LABEL:
            truth, best = targets.argmax(axis=1), scores.argmax(axis=1)
            assert found["top_1"][row] == pytest.approx(metrics.accuracy_score(truth, best, sample_weight=weight))
    plain = weighted_figures(hits, scores, problem_type, np.ones((1, 12)))
    summary = classification_metrics(targets, scores, problem_type=problem_type).summary()
    assert {name: plain[name][0] for name in HEADLINE} == pytest.approx(
        {name: summary[name] for name in HEADLINE}, abs=1e-9, nan_ok=True
    )


def test_intervals_contain_the_metric_and_are_narrower_with_more_clips() -> None:
    widths = []
    for clips in (20, 80, 320):
        targets, scores = single(np.random.default_rng(1), clips, 4, 0.6)
        found = confidence_intervals(targets, scores, SINGLE_LABEL)
        figures = classification_metrics(targets, scores, problem_type=SINGLE_LABEL).summary()
        assert all(found[name][0] <= figures[name] <= found[name][1] for name in HEADLINE)
        assert found == confidence_intervals(targets, scores, SINGLE_LABEL)
        widths.append([high - low for low, high in found.values()])
    assert (np.diff(widths, axis=0) < 0).all()


def test_the_interval_of_a_share_is_about_that_of_the_binomial_distribution() -> None:
    targets, scores = np.zeros((100, 2)), np.zeros((100, 2))
    targets[:, 0], scores[:, 0], scores[:80, 1] = 1, 0.5, 0.2
    scores[80:, 1] = 0.9
    low, high = confidence_intervals(targets, scores, SINGLE_LABEL)["top_1"]
    exact = binomtest(80, 100).proportion_ci(0.95)
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=0.03)


def test_a_few_clips_that_are_all_right_are_not_certain() -> None:
    targets = np.tile(np.eye(2), (4, 1))
    found = confidence_intervals(targets, targets, SINGLE_LABEL)
    exact = binomtest(8, 8).proportion_ci(0.95)
    assert found["top_1"] == found["mAP"] == found["mAUC"] == pytest.approx((exact.low, 1.0))
    assert all(map(math.isnan, confidence_intervals(targets[:1], targets[:1], SINGLE_LABEL)["top_1"]))
    everywhere = confidence_intervals(np.ones((4, 1)), np.full((4, 1), 0.7), MULTI_LABEL)
    assert all(map(math.isnan, everywhere["mAUC"]))
    assert everywhere["Brier"][0] < 0.09 < everywhere["Brier"][1]


@pytest.mark.parametrize(
    ("score", "right", "words"),
    [(0.1, 0.8, "too low"), (0.9, 0.2, "too high"), (0.8, 0.78, None)],
)
def test_a_large_calibration_error_is_explained(score: float, right: float, words: str | None) -> None:
    targets = np.zeros((50, 2))
    targets[:, 0] = np.arange(50) < 50 * right
    targets[:, 1] = 1 - targets[:, 0]
    scores = np.tile([score, score / 2], (50, 1))
    note = calibration_note(targets, scores, SINGLE_LABEL)
    assert note is None if words is None else note is not None and words in note and f"average {score:.2f}" in note


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_the_confusion_matrix_is_that_of_scikit_learn(seed: int, classes: int) -> None:
    targets, scores = single(np.random.default_rng(seed), 30, classes, 0.5)
    matrix = confusion_matrix(targets, scores)
    truth, best = targets.argmax(axis=1), scores.argmax(axis=1)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(truth, best, labels=range(classes)))
    pairs = most_confused(matrix, [*map(str, range(classes))], most=100)
    assert sum(pair.clips for pair in pairs) == (truth != best).sum()
    assert [pair.clips for pair in pairs] == sorted((pair.clips for pair in pairs), reverse=True)
    for pair in pairs:
        row, column = int(pair.label), int(pair.taken_for)
        assert row != column and pair.clips == matrix[row, column]
        assert pair.share == pair.clips / (truth == row).sum()


@pytest.mark.parametrize("classes", [2, 40, 527])
def test_a_plot_has_all_names(classes: int) -> None:
    figure = make_picture(np.eye(classes, dtype=int), [f"$class {index}$ {'x' * 40}" for index in range(classes)])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == classes and all(len(name) <= 36 for name in names)
    assert figure.get_size_inches().max() < 50


# Labels


def clips_of(*labels: str, problem_type: str = SINGLE_LABEL) -> LabelledClips:
    targets = np.eye(len(labels), dtype=np.float32)
    return LabelledClips([f"{label}.wav" for label in labels], targets, list(labels), problem_type)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("002 - Rain", "Rain"),
        ("2. rain", "Rain"),
        ("03_chicken, rooster", "Chicken, rooster"),
        ("(7) Chainsaw", "Chainsaw"),
        ("0-dog", "Dog"),
        ("DOG", "Dog"),
        ("/m/0bt9lr", "Dog"),
    ],
)
def test_numbers_before_a_label_do_not_matter(label: str, expected: str) -> None:
    found, chosen = match_clips(clips_of(label, "Speech"), AUDIOSET_LABELS)
    assert found.labels == [expected, "Speech"] and AUDIOSET_LABELS[chosen[0].index] == expected


def test_numbers_may_be_only_in_the_model_or_be_names() -> None:
    own = ["001 - Dog bark", "002 - Rain", "3", "4", "808"]
    assert match_clips(clips_of("Rain", "dog_bark"), own)[0].labels == ["002 - Rain", "001 - Dog bark"]
    assert match_clips(clips_of("002 - Rain", "1 Dog bark"), own)[0].labels == ["002 - Rain", "001 - Dog bark"]
    assert match_clips(clips_of("4", "3", "808"), own)[0].labels == ["4", "3", "808"]
    with pytest.raises(UnknownLabelsError, match="'5' is not among"):
        match_clips(clips_of("5", "3"), own)


def test_unknown_labels_are_reported_with_lines_for_a_map(tmp_path: Path) -> None:
    labels = ["001 - Dog bark", "003 - Sea waves", "006 - Person sneeze", "007 - Helicopter", "xqzxqz"]
    with pytest.raises(UnknownLabelsError, match=r"'001 - Dog bark' \(did you mean 'Dog' or 'Bark'\?\)") as error:
        match_clips(clips_of(*labels), AUDIOSET_LABELS)
    lines = error.value.proposed_map()
    assert {"Dog,001 - Dog bark", "# Bark,001 - Dog bark", '"Waves, surf",003 - Sea waves'} <= set(lines)
    assert "?,xqzxqz" in lines and not any("Helicopter" in line for line in lines)
    (tmp_path / "map.csv").write_text("\n".join([*lines, "Bark,001 - Dog bark"]).replace("?,xqzxqz", "Siren,xqzxqz"))
    found, chosen = match_clips(clips_of(*labels), AUDIOSET_LABELS, read_label_map(tmp_path / "map.csv"))
    assert found.labels == [*labels[:3], "Helicopter", "xqzxqz"]
    assert [AUDIOSET_LABELS[index] for index in chosen[0].indices] == ["Dog", "Bark"]


def test_a_label_may_be_a_name_of_the_label_map() -> None:
    found, chosen = match_clips(clips_of("Dog", "Katze"), AUDIOSET_LABELS, {"Dog": "Hund", "Cat": "Katze"})
    assert found.labels == ["Hund", "Katze"] and [AUDIOSET_LABELS[each.indices[0]] for each in chosen] == ["Dog", "Cat"]
    with pytest.raises(ValueError, match="'Dog' and 'Hund' are the same class of the model, 'Hund'"):
        match_clips(clips_of("Dog", "Hund"), AUDIOSET_LABELS, {"Dog": "Hund"})


def test_unknown_labels_can_be_left_out() -> None:
    found, _ = match_clips(clips_of("Dog", "Crwo", "Cat"), AUDIOSET_LABELS, skip_unknown=True)
    assert found.labels == ["Dog", "Cat"] and found.paths == ["Dog.wav", "Cat.wav"]
    assert found.notes == ["1 label unknown to the model with 1 clip left out: 'Crwo'"]
    several, _ = match_clips(clips_of("Dog", "Crwo", problem_type=MULTI_LABEL), AUDIOSET_LABELS, skip_unknown=True)
    assert several.labels == ["Dog"] and several.targets.tolist() == [[1], [0]]
    with pytest.raises(UnknownLabelsError):
        match_clips(clips_of("Crwo"), AUDIOSET_LABELS, skip_unknown=True)
    with pytest.raises(ValueError, match="at least two classes are needed"):
        match_clips(clips_of("Dog", "Crwo"), AUDIOSET_LABELS, skip_unknown=True)
