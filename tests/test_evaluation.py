# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of an evaluation equal those of scikit-learn and of their definitions, for small cases and real runs."""

import math
import shutil
import sys
import warnings
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import calibration, metrics

from ced_model import AUDIOSET_LABELS, AudioTagger, CedConfig, CedForAudioClassification
from ced_model.evaluation import ClassificationMetrics, classification_metrics, d_prime, evaluate
from ced_model.labelled import MULTI_LABEL, SINGLE_LABEL, read_labelled

BINS = 15

SOUNDS = {
    "misc_crow.flac": "Crow;Bird;Animal",
    "perc_bell.flac": "Bell",
    "loop_tabla.flac": "Tabla;Drum;Music;Musical instrument",
    "guit_e_slide.flac": "Guitar;Music;Musical instrument",
    "misc_burp.flac": "Burping, eructation;Animal",
    "perc_snap.flac": "Finger snapping",
}


@pytest.fixture
def sounds(resources: Path, tmp_path: Path) -> Path:
    """A table of the recordings in resources/."""
    rows = [f'{resources / name},"{labels}"\n' for name, labels in SOUNDS.items()]
    (tmp_path / "sounds.csv").write_text("path,labels\n" + "".join(rows), encoding="utf-8")
    return tmp_path / "sounds.csv"


@pytest.fixture
def folder(resources: Path, tmp_path: Path) -> Path:
    """A folder of clips for each of three classes."""
    for name, label in (("misc_crow", "Crow"), ("perc_bell", "Bell"), ("loop_tabla", "Tabla"), ("perc_snap", "Tabla")):
        (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(resources / f"{name}.flac", tmp_path / "folder" / label)
    return tmp_path / "folder"


def make_model(**config: object) -> CedForAudioClassification:
    """A small classifier with random weights, whose scores differ between classes and clips."""
    torch.manual_seed(0)
    model = CedForAudioClassification(CedConfig(embed_dim=48, depth=2, num_heads=3, **config))
    torch.nn.init.normal_(model.outputlayer[1].weight, std=0.5)
    return model.eval()


# scikit-learn's figures


def sklearn_figures(hits: np.ndarray, scores: np.ndarray, problem_type: str) -> dict[str, float]:
    """All metrics, computed by scikit-learn."""
    scores = scores.astype(np.float64)  # scikit-learn would sum in float32
    present, both = hits.any(axis=0), hits.any(axis=0) & ~hits.all(axis=0)
    mean_auc = metrics.roc_auc_score(hits[:, both], scores[:, both], average="macro") if both.any() else math.nan
    labelled = hits.any(axis=1)
    best = scores.argmax(axis=1)
    if problem_type == SINGLE_LABEL:
        top_1 = metrics.accuracy_score(hits.argmax(axis=1), best)
        truth, confidence = hits.argmax(axis=1) == best, scores.max(axis=1)
        brier = hits.shape[1] * metrics.mean_squared_error(hits, scores)
    else:
        named = hits[np.arange(len(hits)), best][labelled]
        top_1 = metrics.accuracy_score(np.ones(len(named), bool), named)
        truth, confidence = hits.ravel(), scores.ravel()
        brier = metrics.brier_score_loss(truth, confidence, labels=[False, True])
    return {
        "mAP": metrics.average_precision_score(hits[:, present], scores[:, present], average="macro"),
        "mAUC": mean_auc,
        "d_prime": math.sqrt(2) * NormalDist().inv_cdf(mean_auc) if 0 < mean_auc < 1 else d_prime(mean_auc),
        "top_1": top_1,
        "ECE": calibration_error(truth, confidence),
        "Brier": brier,
    }


def calibration_error(truth: np.ndarray, confidence: np.ndarray) -> float:
    """From scikit-learn's calibration curve, which has all non-empty bins, but not their sizes."""
    share, mean = calibration.calibration_curve(truth, confidence, n_bins=BINS, strategy="uniform")
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence))
    return float(np.abs(share - mean) @ counts[counts > 0] / counts.sum())


def check_against_sklearn(hits: np.ndarray, scores: np.ndarray, problem_type: str) -> ClassificationMetrics:
    """Compares all metrics, and those of each class."""
    found = classification_metrics(hits, scores, problem_type=problem_type)
    assert found.summary() == pytest.approx(sklearn_figures(hits, scores, problem_type), abs=1e-9, nan_ok=True)
    for column, item in enumerate(found.per_class):
        hit, score = hits[:, column], scores[:, column]
        assert (item.label, item.positives) == (str(column), hit.sum())
        if not hit.any():
            assert all(map(math.isnan, item[2:]))
            continue
        assert item.average_precision == pytest.approx(metrics.average_precision_score(hit, score), abs=1e-12)
        auc = math.nan if hit.all() else metrics.roc_auc_score(hit, score)
        assert item.auc == pytest.approx(auc, abs=1e-12, nan_ok=True)
        assert item.best_f1 == pytest.approx(metrics.f1_score(hit, score >= item.best_threshold), abs=1e-12)
        assert item.best_f1 == pytest.approx(max(metrics.f1_score(hit, score >= limit) for limit in score), abs=1e-12)
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, str]:
    """Targets with or without classes in all, some or no clips, and scores with or without ties."""
    clips, classes = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([1, 2, 15, 20, 10**6]))
    scores = (random.integers(0, steps + 1, size=(clips, classes)) / steps).astype(draw(st.sampled_from("fd")))
    problem_type = draw(st.sampled_from([SINGLE_LABEL, MULTI_LABEL]))
    if problem_type == SINGLE_LABEL:
        return np.eye(classes, dtype=bool)[random.integers(classes, size=clips)], scores, problem_type
    hits = random.random((clips, classes)) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    hits[0, 0] |= not hits.any()
    return hits, scores, problem_type


@settings(max_examples=50)
@given(cases())
def test_all_figures_are_those_of_scikit_learn(case: tuple[np.ndarray, np.ndarray, str]) -> None:
    hits, scores, problem_type = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn is not called for undefined metrics
        found = classification_metrics(hits, scores, problem_type=problem_type)
        assert found.num_clips == len(hits) and found.num_classes == hits.shape[1]
        assert found.num_classes_present == hits.any(axis=0).sum()
    check_against_sklearn(hits, scores, problem_type)


@settings(max_examples=50)
@given(cases())
def test_the_order_of_clips_and_the_type_of_targets_do_not_matter(case: tuple[np.ndarray, np.ndarray, str]) -> None:
    hits, scores, problem_type = case
    expected = classification_metrics(hits, scores, problem_type=problem_type).summary()
    backwards = classification_metrics(hits[::-1].astype(np.float32), scores[::-1], problem_type=problem_type).summary()
    assert backwards == pytest.approx(expected, abs=1e-9, nan_ok=True)


# Cases by hand


def test_a_case_by_hand() -> None:
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    scores = np.array([[0.9, 0.8, 0.2], [0.8, 0.9, 0.1], [0.7, 0.3, 0.1], [0.1, 0.1, 0.4]])
    found = classification_metrics(targets, scores, labels=["a", "b", "c"])
    a, b, c = found.per_class
    assert (a.label, a.positives, b.label, b.positives, c.label, c.positives) == ("a", 2, "b", 2, "c", 0)
    assert a.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)  # found at ranks 1 and 3
    assert b.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.mean_average_precision == pytest.approx(5 / 6)  # without c
    assert a.auc == b.auc == found.mean_auc == 0.75  # of four pairs, one is the wrong way round
    assert found.d_prime == pytest.approx(0.953873, abs=1e-6)  # √2 · 0.674490
    assert found.top_1 == 1.0  # of the three clips with a class
    assert (a.best_f1, a.best_threshold) == (0.8, 0.7)  # two of two found, one more of three named
    assert found.num_classes_present == 2


def test_calibration_by_hand() -> None:
    targets = np.array([[1, 0], [0, 1], [1, 0], [1, 0]])
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    single = classification_metrics(targets, scores, problem_type=SINGLE_LABEL)
    # The best-scored classes: 0.9 right, 0.9 wrong; 0.6 right; 0.7 wrong.
    assert single.calibration_error == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.6 - 1) + abs(0.7 - 0)) / 4)
    assert single.brier == pytest.approx((2 * 0.01 + 2 * 0.81 + 2 * 0.16 + 2 * 0.49) / 4)
    assert single.top_1 == 0.5
    multi = classification_metrics(targets, scores)
    # All pairs: 0.9 ✓ ✗; 0.1 ✗ ✓; 0.6 ✓; 0.4 ✗; 0.3 ✓; 0.7 ✗.
    surplus = 2 * abs(0.9 - 0.5) + 2 * abs(0.1 - 0.5) + abs(0.6 - 1) + 0.4 + abs(0.3 - 1) + 0.7
    assert multi.calibration_error == pytest.approx(surplus / 8)
    assert multi.brier == pytest.approx(single.brier / 2)


def test_perfect_and_reversed_scores() -> None:
    targets = np.array([[1, 0], [0, 1], [1, 0]])
    perfect = classification_metrics(targets, targets.astype(float), problem_type=SINGLE_LABEL)
    assert perfect.summary() == {"mAP": 1, "mAUC": 1, "d_prime": math.inf, "top_1": 1, "ECE": 0, "Brier": 0}
    worst = classification_metrics(targets, 1.0 - targets, problem_type=SINGLE_LABEL)
    assert worst.mean_auc == 0 and worst.d_prime == -math.inf and worst.top_1 == 0
    assert worst.calibration_error == 1 and worst.brier == 2


def test_equal_scores_give_the_metrics_of_chance() -> None:
    targets = np.array([[1, 0], [0, 1], [0, 1], [0, 1]])
    found = classification_metrics(targets, np.full((4, 2), 0.5), problem_type=SINGLE_LABEL)
    assert [item.average_precision for item in found.per_class] == [0.25, 0.75]  # the prevalence
    assert found.mean_auc == 0.5 and found.d_prime == 0.0
    assert found.top_1 == 0.25  # the first class


def test_a_single_clip_and_classes_in_all_or_no_clips() -> None:
    one = classification_metrics(np.array([[1, 0]]), np.array([[0.2, 0.4]]))
    assert one.mean_average_precision == 1 and one.top_1 == 0
    assert math.isnan(one.mean_auc) and math.isnan(one.d_prime)
    assert one.per_class[0].best_threshold == 0.2 and math.isnan(one.per_class[1].average_precision)


@pytest.mark.parametrize(("auc", "expected"), [(0.5, 0.0), (0.75, 0.953873), (0.97, 2.659844), (0.03, -2.659844)])
def test_d_prime(auc: float, expected: float) -> None:
    assert d_prime(auc) == pytest.approx(expected, abs=1e-6)


# Bad arrays


@pytest.mark.parametrize(
    ("targets", "scores", "options", "message"),
    [
        ([[1, 0]], [[0.5, math.nan]], {}, "that of clip 0, class 1 is nan"),
        ([[1, 0]], [[math.inf, 0.5]], {}, "that of clip 0, class 0 is inf"),
        ([[1, 0]], [[3.5, -2.0]], {}, "from 0 to 1, got -2 to 3.5; apply a sigmoid or softmax"),
        ([[0.7, 0]], [[0.5, 0.5]], {}, "must be 0 or 1"),
        ([[math.nan, 0]], [[0.5, 0.5]], {}, "must be 0 or 1"),
        ([[0, 0]], [[0.5, 0.5]], {}, "No clip has any of the classes"),
        ([[1, 0]], [[0.5]], {}, r"got \(1, 2\) and \(1, 1\)"),
        ([1, 0], [0.5, 0.5], {}, r"got \(2,\) and \(2,\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), {}, "0 clips and 3 classes"),
        ([[1, 1]], [[0.5, 0.5]], {"problem_type": SINGLE_LABEL}, "exactly one class"),
        ([[1, 0]], [[0.5, 0.5]], {"problem_type": "regression"}, "`problem_type='regression'` must be"),
        ([[1, 0]], [[0.5, 0.5]], {"labels": ["a"]}, "1 `labels`, but 2 classes"),
    ],
)
def test_invalid_arrays_are_refused(targets: object, scores: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(targets), np.array(scores), **options)


# Real runs


def expected_scores(tagger: AudioTagger, paths: list[str], labels: list[str]) -> np.ndarray:
    """Scores of each clip, tagged separately."""
    rows = [{tag.label: tag.score for tag in tagger(path, top_k=len(tagger.labels))} for path in paths]
    return np.array([[row[label] for label in labels] for row in rows])


def test_multi_label_clips_give_the_figures_of_scikit_learn(sounds: Path) -> None:
    tagger = AudioTagger(make_model())
    found = evaluate(tagger, sounds)
    labels = sorted({label for text in SOUNDS.values() for label in text.split(";")}, key=AUDIOSET_LABELS.index)
    assert found.clips.labels == labels and found.failed == [] and found.notes == []
    assert [Path(path).name for path in found.clips.paths] == list(SOUNDS)
    hits = np.array([[label in text.split(";") for label in labels] for text in SOUNDS.values()])
    scores = expected_scores(tagger, found.clips.paths, labels)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    expected = sklearn_figures(hits, found.scores, MULTI_LABEL)
    assert found.metrics.summary() == pytest.approx(expected, abs=1e-9)
    assert [item.label for item in found.metrics.per_class] == labels
    assert 0 < found.metrics.mean_average_precision < 1 and 0 < found.metrics.mean_auc < 1
    assert found.metrics.problem_type == MULTI_LABEL and scores.std() > 0.1


@pytest.mark.parametrize("model_type", [SINGLE_LABEL, MULTI_LABEL])
def test_single_label_clips_give_the_figures_of_scikit_learn(folder: Path, model_type: str) -> None:
    names = dict(enumerate(["Tabla", "Dog", "Crow", "Bell"]))
    tagger = AudioTagger(make_model(id2label=names, problem_type=model_type))
    found = evaluate(tagger.model, str(folder))
    assert found.clips.labels == ["Tabla", "Crow", "Bell"]  # in the model's order, without classes that no clip has
    assert found.metrics.problem_type == SINGLE_LABEL  # depends on the clips
    every = expected_scores(tagger, found.clips.paths, list(names.values()))
    assert np.allclose(every.sum(axis=1), 1) == (model_type == SINGLE_LABEL)  # softmax over all classes, or sigmoids
    np.testing.assert_allclose(found.scores, every[:, [0, 2, 3]], atol=1e-6)
    hits = np.array([[Path(path).parent.name == label for label in found.clips.labels] for path in found.clips.paths])
    assert found.metrics.summary() == pytest.approx(sklearn_figures(hits, found.scores, SINGLE_LABEL), abs=1e-9)


def test_long_clips_and_other_rates_are_scored_as_the_tagger_scores_them(
    resources: Path, long_clip: Path, clip: Path, tmp_path: Path
) -> None:
    table = tmp_path / "clips.jsonl"
    rows = [(long_clip, "Noise"), (clip, "Speech"), (resources / "misc_crow.flac", "Crow")]
    table.write_text("".join(f'{{"path": "{path}", "label": "{label}"}}\n' for path, label in rows))
    tagger = AudioTagger(make_model())
    found = evaluate(tagger, table)
    np.testing.assert_allclose(
        found.scores, expected_scores(tagger, found.clips.paths, ["Speech", "Crow", "Noise"]), atol=1e-6
    )
    assert found.metrics.num_clips == 3


def test_clips_that_cannot_be_read_are_reported_and_left_out(sounds: Path) -> None:
    (sounds.parent / "bad.wav").write_text("not audio")
    (sounds.parent / "folder.wav").mkdir()
    text = sounds.read_text(encoding="utf-8")
    whole = evaluate(make_model(), sounds)
    sounds.write_text(text + "bad.wav,Speech\nmissing.wav,Speech\nfolder.wav,Crow\n", encoding="utf-8")
    ready: list[tuple[str, str | None]] = []
    audio: list[float] = []
    found = evaluate(make_model(), sounds, on_clip=lambda *item: ready.append(item), on_audio=audio.append)
    reasons = {Path(path).name: reason for path, reason in found.failed}
    assert reasons.keys() == {"missing.wav", "bad.wav", "folder.wav"}
    assert reasons["missing.wav"] == "there is no such file" and "can read it" in reasons["bad.wav"]
    assert reasons["folder.wav"] == "a directory, not an audio file"
    assert found.metrics.num_clips == len(SOUNDS)
    assert found.metrics.mean_average_precision == pytest.approx(whole.metrics.mean_average_precision)
    assert [(Path(path).name, reason) for path, reason in ready] == [
        (name, reasons.get(name)) for name in [*SOUNDS, "bad.wav", "folder.wav"]
    ]
    assert sum(audio) > 20


def test_soft_targets_count_as_present_from_one_half(resources: Path, tmp_path: Path) -> None:
    rows = ["misc_crow.flac,0.5,0.1", "perc_bell.flac,0.49,1", "misc_burp.flac,0,0"]
    (tmp_path / "soft.csv").write_text("path,Crow,Bell\n" + "\n".join(rows) + "\n")
    found = evaluate(make_model(), tmp_path / "soft.csv", audio_root=resources)
    crow, bell = (found.clips.labels.index(name) for name in ("Crow", "Bell"))
    assert found.clips.targets[:, [crow, bell]].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert found.notes == ["soft targets: from 0.5 on, a class counts as present"]


def test_classes_that_the_model_lacks_are_named(sounds: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"labels that are not classes of the model: 'Crow' \(did you mean 'Crows'"):
        evaluate(make_model(id2label={0: "Crows", 1: "Bell", 2: "Tabla"}), folder)
    clips = read_labelled(folder, classes=["Crow", "crow", "Bell", "Tabla"])
    with pytest.raises(ValueError, match="'Crow' and 'crow' are the same class of the model, 'Crow'"):
        evaluate(make_model(), clips)


def test_models_and_clips_that_cannot_be_evaluated_are_refused(sounds: Path, folder: Path, tmp_path: Path) -> None:
    names = {0: "Crow", 1: "Bell", 2: "Tabla"}
    with pytest.raises(ValueError, match="regression model has no class probabilities"):
        evaluate(make_model(id2label=names, problem_type="regression"), folder)
    shutil.rmtree(folder / "Tabla")
    shutil.rmtree(folder / "Bell")
    with pytest.raises(ValueError, match="All clips are 'Crow'"):
        evaluate(make_model(), folder)
    (folder / "Bell").mkdir()
    for path in (folder / "Crow" / "misc_crow.flac", folder / "Bell" / "x.wav"):
        path.write_text("not audio")
    with pytest.raises(ValueError, match="None of 2 clips can be read, such as .*x.wav: "):
        evaluate(make_model(), folder)


def test_a_model_with_damaged_weights_is_refused(sounds: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.outputlayer[1].bias[0] = math.nan
    with pytest.raises(ValueError, match="weights are damaged: outputlayer.1.bias has NaN"):
        evaluate(model, sounds)


def test_a_model_is_given_by_its_folder(sounds: Path, random_model: Path) -> None:
    expected = evaluate(AudioTagger.from_pretrained(random_model), read_labelled(sounds))
    assert evaluate(random_model, sounds).metrics.summary() == pytest.approx(expected.metrics.summary())


def test_without_scikit_learn_the_error_has_the_install_command(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = read_labelled(sounds)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="requires scikit-learn: pip install scikit-learn$"):
        evaluate(make_model(), clips)
