# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Outputs equal the tensors in `golden/`, which were computed by the two public implementations of CED."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification, CedModel

GOLDEN = Path(__file__).parent / "golden"
CASES = list(json.loads((GOLDEN / "micro_cases.json").read_text()))
LONG_CASES = ["11s", "25s"]  # more than 1012 frames: compared with the original, since the public port is faulty
SHORT_CASES = [name for name in CASES if name not in LONG_CASES]
POOLINGS = ["mean", "logit", "dm", "token"]


@pytest.fixture(scope="module")
def cases() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "micro_cases.safetensors")


@pytest.fixture(scope="module")
def model() -> CedForAudioClassification:
    return CedForAudioClassification.from_pretrained(GOLDEN / "micro_hub").eval()


@pytest.fixture(scope="module")
def encoder() -> CedModel:
    """The encoder of the classification checkpoint."""
    return AutoModel.from_pretrained(GOLDEN / "micro_hub").eval()


def assert_close(actual: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_the_cases_cover_one_patch_to_three_chunks(cases: dict[str, torch.Tensor]) -> None:
    assert {name.split(".")[0] for name in cases} == set(CASES)
    assert [name for name in CASES if f"{name}.last_hidden_state" not in cases] == LONG_CASES
    assert [name for name in CASES if f"{name}.log_mel" not in cases] == ["max_1012_frames", *LONG_CASES]


@pytest.mark.parametrize("name", CASES)
def test_log_mel(name: str, cases: dict[str, torch.Tensor], feature_extractor: CedFeatureExtractor) -> None:
    waveform = cases[f"{name}.waveform"]
    expected_frames = json.loads((GOLDEN / "micro_cases.json").read_text())[name]["frames"]
    mel = feature_extractor(waveform, sampling_rate=16000)["input_values"]
    assert mel.shape == (1, 64, expected_frames)
    assert feature_extractor.num_frames(len(waveform)) == expected_frames
    if f"{name}.log_mel" in cases:
        assert_close(mel[0], cases[f"{name}.log_mel"], atol=1e-3)


@pytest.mark.parametrize("name", SHORT_CASES)
@torch.inference_mode()
def test_hidden_states_and_logits(
    name: str,
    cases: dict[str, torch.Tensor],
    feature_extractor: CedFeatureExtractor,
    encoder: CedModel,
    model: CedForAudioClassification,
) -> None:
    mel = feature_extractor(cases[f"{name}.waveform"], sampling_rate=16000)["input_values"]
    hidden_states = encoder(mel).last_hidden_state
    assert_close(hidden_states[0], cases[f"{name}.last_hidden_state"], atol=1e-4)
    logits = model(mel).logits
    assert_close(logits[0], cases[f"{name}.logits"], atol=1e-4)
    assert_close(logits[0].sigmoid(), cases[f"{name}.hub_probabilities"], atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_probabilities_of_the_original(
    name: str,
    cases: dict[str, torch.Tensor],
    feature_extractor: CedFeatureExtractor,
    model: CedForAudioClassification,
) -> None:
    mel = feature_extractor(cases[f"{name}.waveform"], sampling_rate=16000)["input_values"]
    assert_close(model(mel).logits[0].sigmoid(), cases[f"{name}.original_probabilities"], atol=1e-5)


@torch.inference_mode()
def test_all_cases_in_one_padded_batch(
    cases: dict[str, torch.Tensor], feature_extractor: CedFeatureExtractor, model: CedForAudioClassification
) -> None:
    features = feature_extractor([cases[f"{name}.waveform"] for name in CASES], sampling_rate=16000)
    expected = torch.stack([cases[f"{name}.original_probabilities"] for name in CASES])
    assert_close(model(**features).logits.sigmoid(), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.inference_mode()
def test_pooling(pooling: str, feature_extractor: CedFeatureExtractor) -> None:
    cases = load_file(GOLDEN / "pooling_cases.safetensors")
    model = CedForAudioClassification(
        CedConfig(embed_dim=48, depth=3, num_heads=3, num_labels=13, pooling=pooling)
    ).eval()
    prefix = f"{pooling}.weights."
    weights = {name.removeprefix(prefix): value for name, value in cases.items() if name.startswith(prefix)}
    model.load_state_dict(
        {
            name if name.startswith("outputlayer.") else "encoder." + name.replace("init_bn.1.", "init_bn."): value
            for name, value in weights.items()
        }
    )
    mel = feature_extractor(cases["waveform"], sampling_rate=16000)["input_values"]
    logits = model(mel).logits[0]
    if pooling == "logit":
        assert_close(logits, cases["logit.output"], atol=1e-4)
    else:
        assert_close(logits.sigmoid(), cases[f"{pooling}.output"], atol=1e-5)


@pytest.mark.parametrize("target_length", [512, 2024])
@pytest.mark.parametrize("model_class", [CedModel, CedForAudioClassification])
def test_positions_are_resized_to_another_target_length(model_class: type, target_length: int) -> None:
    expected = load_file(GOLDEN / "resized_positions.safetensors")[f"time_pos_embed.target_length_{target_length}"]
    model, report = model_class.from_pretrained(
        GOLDEN / "micro_hub", target_length=target_length, output_loading_info=True
    )
    encoder = model if model_class is CedModel else model.encoder
    assert_close(encoder.time_pos_embed.data, expected, atol=1e-6)
    assert model.config.target_length == target_length
    assert not report["missing_keys"] and not report["mismatched_keys"]


@torch.inference_mode()
def test_resized_positions_survive_saving_and_loading(tmp_path: Path, feature_extractor: CedFeatureExtractor) -> None:
    model = CedForAudioClassification.from_pretrained(GOLDEN / "micro_hub", target_length=2024).eval()
    model.save_pretrained(tmp_path)
    loaded = CedForAudioClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.target_length == 2024
    mel = torch.randn(1, 64, 2024, generator=torch.Generator().manual_seed(0)) * 20 - 40
    assert torch.equal(loaded(mel).logits, model(mel).logits)
