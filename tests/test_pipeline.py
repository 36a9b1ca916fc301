# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""transformers' own audio-classification pipeline gives CED's tags for real recordings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
import torchaudio
from transformers import pipeline

from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification

RECORDINGS = ["guit_e_slide", "loop_tabla", "misc_burp", "misc_crow", "perc_bell", "perc_snap"]


@pytest.fixture(scope="module")
def pipe(golden: Path) -> Any:
    return pipeline("audio-classification", model=str(golden / "micro_hub"))


@pytest.fixture(scope="module")
def model(golden: Path) -> CedForAudioClassification:
    return CedForAudioClassification.from_pretrained(golden / "micro_hub").eval()


def read_recording(folder: Path, name: str) -> tuple[np.ndarray, int]:
    """A recording as one channel of floats, with its sampling rate."""
    waveform, sampling_rate = soundfile.read(folder / f"{name}.flac", dtype="float32", always_2d=True)
    return waveform.mean(axis=1), sampling_rate


def read_at_16_khz(folder: Path, name: str) -> np.ndarray:
    return soxr.resample(*read_recording(folder, name), 16000)


@torch.inference_mode()
def get_scores(model: CedForAudioClassification, extractor: CedFeatureExtractor, waveform: Any) -> dict[str, float]:
    """Every class's probability, from the model itself."""
    logits = model(**extractor(waveform, sampling_rate=16000)).logits[0]
    return {model.config.id2label[index]: score for index, score in enumerate(logits.sigmoid().tolist())}


def assert_tags(tags: list[dict[str, Any]], scores: dict[str, float], top_k: int, atol: float = 1e-5) -> None:
    """The `top_k` best classes by name, the best first, with the scores of the model."""
    assert len(tags) == len({tag["label"] for tag in tags}) == top_k
    expected = sorted(scores.values(), reverse=True)[:top_k]
    assert [tag["score"] for tag in tags] == pytest.approx(expected, abs=atol)
    assert [scores[tag["label"]] for tag in tags] == pytest.approx(expected, abs=atol)


@pytest.mark.parametrize("name", RECORDINGS)
def test_scores_are_the_models_sigmoid_probabilities(
    name: str, pipe: Any, model: CedForAudioClassification, feature_extractor: CedFeatureExtractor, resources: Path
) -> None:
    waveform = read_at_16_khz(resources, name)
    scores = get_scores(model, feature_extractor, waveform)
    assert_tags(pipe(waveform, top_k=5), scores, top_k=5)
    tags = pipe(waveform, top_k=None)
    assert_tags(tags, scores, top_k=13)
    assert abs(sum(tag["score"] for tag in tags) - 1) > 0.1  # no softmax
    raw = pipe(waveform, top_k=1, function_to_apply="none")[0]["score"]
    assert tags[0]["score"] == pytest.approx(1 / (1 + np.exp(-raw)), abs=1e-6)  # and one sigmoid only


def test_the_pipeline_takes_the_classes_of_this_package(pipe: Any) -> None:
    assert type(pipe.model) is CedForAudioClassification
    assert type(pipe.feature_extractor) is CedFeatureExtractor
    assert pipe.model.config.problem_type == "multi_label_classification"


def test_another_sampling_rate_is_resampled(
    pipe: Any, model: CedForAudioClassification, feature_extractor: CedFeatureExtractor, resources: Path
) -> None:
    for name in RECORDINGS:
        waveform, sampling_rate = read_recording(resources, name)
        assert sampling_rate == 44100
        resampled = torchaudio.functional.resample(torch.from_numpy(waveform), sampling_rate, 16000)
        scores = get_scores(model, feature_extractor, resampled)
        for key in ("array", "raw"):
            assert_tags(pipe({key: waveform, "sampling_rate": sampling_rate}, top_k=5), scores, top_k=5)


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 12.0])
def test_batches_of_equal_length(
    batch_size: int,
    seconds: float,
    pipe: Any,
    model: CedForAudioClassification,
    feature_extractor: CedFeatureExtractor,
    resources: Path,
) -> None:
    samples = round(seconds * 16000)
    clips = [np.resize(read_at_16_khz(resources, name), samples) for name in RECORDINGS]
    batches = pipe(clips, batch_size=batch_size, top_k=5)
    assert len(batches) == len(clips)
    for tags, clip in zip(batches, clips, strict=True):
        assert_tags(tags, get_scores(model, feature_extractor, clip), top_k=5)


def test_mixed_lengths_one_by_one(
    pipe: Any, model: CedForAudioClassification, feature_extractor: CedFeatureExtractor, resources: Path
) -> None:
    clips = [read_at_16_khz(resources, name) for name in RECORDINGS]
    assert len({len(clip) for clip in clips}) == len(clips)
    for tags, clip in zip(pipe(clips, top_k=13), clips, strict=True):
        assert_tags(tags, get_scores(model, feature_extractor, clip), top_k=13)


def test_mixed_lengths_in_one_batch_are_transformers_own_error(pipe: Any, resources: Path) -> None:
    clips = [read_at_16_khz(resources, name) for name in RECORDINGS[:2]]
    with pytest.raises(RuntimeError, match="must match") as caught:
        pipe(clips, batch_size=2)
    assert Path(str(caught.traceback[-1].path)).parts[-2:] == ("pipelines", "base.py")


def test_audioset_names_come_from_the_package(tmp_path: Path, resources: Path) -> None:
    torch.manual_seed(0)
    model = CedForAudioClassification(CedConfig(embed_dim=48, depth=1, num_heads=3)).eval()
    with torch.no_grad():
        model.outputlayer[1].bias.fill_(-5.0)[21] = 5.0
    model.save_pretrained(tmp_path)
    CedFeatureExtractor().save_pretrained(tmp_path)
    tags = pipeline("audio-classification", model=str(tmp_path))(read_at_16_khz(resources, "misc_crow"), top_k=2)
    assert tags[0]["label"] == "Chuckle, chortle" and tags[0]["score"] > 0.9 > 0.1 > tags[1]["score"]
