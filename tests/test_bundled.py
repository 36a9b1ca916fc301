# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The bundled model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from ced_model import AUDIOSET_LABELS, AudioTagger, CedForAudioClassification, bundled_folder

RESOURCES = Path(__file__).parents[1] / "resources"
# The recordings of resources/, which are not in the training data, and their classes.
SOUNDS = {
    "misc_crow.flac": {"Crow", "Caw"},
    "loop_tabla.flac": {"Drum", "Tabla", "Percussion", "Mridangam"},
}


def test_it_needs_no_network_and_no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", None)
    tagger = AudioTagger()
    assert tagger.labels == list(AUDIOSET_LABELS)
    assert tagger.model.dtype == torch.float32


@pytest.mark.parametrize("name", SOUNDS)
def test_it_recognises_sounds(name: str) -> None:
    tags = AudioTagger()(RESOURCES / name, top_k=5)
    assert {tag.label for tag in tags} & SOUNDS[name]


def test_its_name_and_its_folder_are_the_same_model() -> None:
    clip = RESOURCES / "misc_crow.flac"
    by_default, by_name, by_folder = (
        tagger(clip, top_k=20)
        for tagger in (
            AudioTagger(),
            AudioTagger.from_pretrained("ced-nano"),
            AudioTagger.from_pretrained(bundled_folder()),
        )
    )
    assert by_default == by_name == by_folder


def test_a_folder_of_that_name_has_priority(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, random_model: Path
) -> None:
    (tmp_path / "ced-nano").symlink_to(random_model)
    monkeypatch.chdir(tmp_path)
    assert AudioTagger.from_pretrained("ced-nano").model.num_parameters() < 1e6


def test_transformers_loads_its_folder() -> None:
    folder = bundled_folder("ced-nano")
    model = AutoModelForAudioClassification.from_pretrained(folder)
    assert isinstance(model, CedForAudioClassification) and model.dtype == torch.float32
    clip = 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    with torch.inference_mode():
        scores = model(**AutoFeatureExtractor.from_pretrained(folder)(clip, sampling_rate=16000)).logits.sigmoid()[0]
    best = pipeline("audio-classification", model=folder)({"array": clip, "sampling_rate": 16000}, top_k=1)[0]
    assert best["label"] == AUDIOSET_LABELS[int(scores.argmax())]
    assert best["score"] == pytest.approx(float(scores.max()), abs=1e-6)


def test_it_is_small() -> None:
    files = [path for path in Path(bundled_folder()).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8e6
    assert AudioTagger().model.num_parameters() <= 4e6
    with safe_open(Path(bundled_folder(), "model.safetensors"), "pt") as weights:
        dtypes = {weights.get_slice(name).get_dtype() for name in weights.keys()}
    assert dtypes == {"F16", "I64"}


def test_its_configuration_has_no_local_folder() -> None:
    for name in ("config.json", "preprocessor_config.json", "README.md"):
        text = Path(bundled_folder(), name).read_text(encoding="utf-8")
        assert "/var/" not in text and "/home/" not in text and "/tmp/" not in text
    assert json.loads(Path(bundled_folder(), "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("name", ["ced-tiny", "", ".", "../checkpoints/ced-nano"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="'ced-nano'"):
        bundled_folder(name)
