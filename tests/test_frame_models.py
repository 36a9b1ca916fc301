# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Taggers with a `CedForAudioFrameClassification`: timelines of steps of 0.16 s, with every engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from ced_model import AudioTagger, CedConfig, CedFeatureExtractor, CedForAudioFrameClassification
from ced_model.exporting.export import export_model
from ced_model.exporting.programs import load_export
from ced_model.log_mel import log_mel
from ced_model.messages import OptionError
from ced_model.model_folder import open_model


def frame_model(**config: Any) -> CedForAudioFrameClassification:
    torch.manual_seed(0)
    labels = {index: name for index, name in enumerate(["Bird", "Dog", "Cat"])}
    model = CedForAudioFrameClassification(CedConfig(embed_dim=48, depth=2, num_heads=3, id2label=labels, **config))
    torch.nn.init.normal_(model.outputlayer[1].weight, std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    frame_model(pad_last=False).save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """25.3 s."""
    samples = np.random.default_rng(0).normal(scale=0.1, size=404_800).astype(np.float32)
    return samples * (1 + np.sin(np.arange(len(samples)) / 8000)).astype(np.float32)


def model_steps(model: CedForAudioFrameClassification, samples: np.ndarray) -> np.ndarray:
    """Outputs of the model for consecutive windows of 63 steps."""
    windows = [samples[start : start + 63 * 2560] for start in range(0, len(samples), 63 * 2560)]
    with torch.no_grad():
        outputs = [model(**CedFeatureExtractor()(window, sampling_rate=16000)).logits[0] for window in windows]
    return torch.cat(outputs).sigmoid().numpy()


@pytest.mark.parametrize("engine", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("config", [{}, {"pooling": "token"}, {"pooling": "dm"}], ids=str)
def test_timelines_are_the_steps_of_the_model(
    tmp_path: Path, noise: np.ndarray, engine: str, config: dict[str, Any]
) -> None:
    model = frame_model(**config)
    model.save_pretrained(tmp_path)
    CedFeatureExtractor().save_pretrained(tmp_path)
    timeline = AudioTagger(tmp_path, engine=engine, num_threads=1).timeline(noise)
    expected = model_steps(model, noise)
    np.testing.assert_allclose(timeline.scores, expected, atol=1e-5)
    np.testing.assert_allclose(timeline.start_s, 0.16 * np.arange(len(expected)), atol=1e-9)
    assert timeline.end_s[-1] == timeline.duration_s == 25.3


def test_the_steps_of_a_model_in_memory_use_its_current_weights(noise: np.ndarray) -> None:
    model = frame_model()
    expected = model_steps(model, noise)
    for engine in ("torch", "onnx"):
        np.testing.assert_allclose(AudioTagger(model, engine=engine).timeline(noise).scores, expected, atol=1e-5)


def test_events_of_a_stream_equal_those_of_the_recording(folder: Path, noise: np.ndarray) -> None:
    tagger = AudioTagger(folder, num_threads=1)
    thresholds = float(np.median(tagger.timeline(noise).scores))
    finding: dict[str, Any] = {"smooth_s": 0.48, "merge_gap_s": 0.2}
    events = tagger.events(noise, thresholds, **finding)
    chunks = [noise[start : start + 1000] for start in range(0, len(noise), 1000)]
    streamed = sorted(tagger.stream_events(chunks, thresholds, **finding))
    assert len(events) > 3 and [event[:3] for event in streamed] == [event[:3] for event in sorted(events)]
    np.testing.assert_allclose(*([event.peak for event in each] for each in (streamed, sorted(events))), rtol=1e-5)


def test_shorter_windows_are_possible_and_a_hop_is_not(folder: Path, noise: np.ndarray) -> None:
    tagger = AudioTagger(folder, num_threads=1)
    timeline = tagger.timeline(noise, window_s=2.0)
    assert (timeline.start_s[1:] == timeline.end_s[:-1]).all() and timeline.end_s[-1] == 25.3
    with pytest.raises(OptionError, match="expected None: this model scores steps of 0.16 s"):
        tagger.timeline(noise, hop_s=0.5)


def test_the_same_weights_as_a_classifier_of_clips_are_another_model(folder: Path, tmp_path: Path) -> None:
    config = (folder / "config.json").read_text()
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(
        config.replace('"CedForAudioFrameClassification"', '"CedForAudioClassification"')
    )
    assert open_model(folder).fingerprint() != open_model(tmp_path).fingerprint()
    assert AudioTagger(tmp_path).timeline(np.zeros(48000, np.float32)).scores.shape == (2, 3)


def test_clip_scores_are_those_of_the_mean_token_in_tagger_and_pipeline(folder: Path, noise: np.ndarray) -> None:
    tags = AudioTagger(folder)(noise[:32000])
    piped = pipeline("audio-classification", model=str(folder))(noise[:32000])
    assert [tag.label for tag in tags] == [each["label"] for each in piped]
    np.testing.assert_allclose([tag.score for tag in tags], [each["score"] for each in piped], atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_exports_have_the_steps_as_a_further_output(
    folder: Path, tmp_path: Path, noise: np.ndarray, format: str
) -> None:
    export_model(folder, tmp_path / "export", format=format, input="mel", num_threads=1)
    export = load_export(tmp_path / "export", num_threads=1)
    assert export.metadata["outputs"] == ["probabilities", "embeddings", "step_probabilities"]
    clip = noise[: 20 * 2560]
    frames = log_mel(clip, open_model(folder).front_end)[None, :, : 20 * 16]
    expected = AudioTagger(folder).timeline(clip).scores
    np.testing.assert_allclose(export.run(np.ascontiguousarray(frames))["step_probabilities"][0], expected, atol=1e-4)
