# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph written from a configuration gives the outputs of the PyTorch model and the golden tensors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from ced_model import CedConfig, CedForAudioClassification
from ced_model.engines.torch import TensorInMemory, activate
from ced_model.log_mel import FrontEnd, log_mel
from ced_model.model_folder import ModelFolder, open_model
from ced_model.onnx_graph import build_graph, resize_positions

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-5
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
LENGTHS = (16, 31, 100, 332)
CASES = {name: case["frames"] for name, case in json.loads((GOLDEN / "micro_cases.json").read_text()).items()}


def save(folder: Path, dtype: torch.dtype = torch.float32, max_shard_size: str = "1GB", **fields: Any) -> Path:
    """A small model with random weights and scores that are not all near 0.5."""
    torch.manual_seed(0)
    config = CedConfig(**{"embed_dim": 48, "num_heads": 3, "depth": 2, "num_labels": 7, "target_length": 332} | fields)
    model = CedForAudioClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.05))
        bn = model.encoder.init_bn
        for buffer, low in ((bn.running_mean, -50.0), (bn.running_var, 200.0)):
            buffer.copy_(low + 10 * torch.rand_like(buffer))
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def open_session(model: ModelFolder, **options: Any) -> onnxruntime.InferenceSession:
    graph = build_graph(model.settings, model.tensors, **options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry(WEIGHTS_FOLDER, model.weights_folder)
    return onnxruntime.InferenceSession(graph.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def noise_mels(batch: int, frames: int, n_mels: int = 64) -> np.ndarray:
    return np.random.default_rng(frames).uniform(-90, 30, (batch, n_mels, frames)).astype(np.float32)


def assert_equals_torch(folder: Path, lengths: tuple[int, ...] = LENGTHS, batches: tuple[int, ...] = (1, 3)) -> None:
    model = open_model(folder)
    session = open_session(model)
    reference = CedForAudioClassification.from_pretrained(folder, dtype=torch.float32).eval()
    for batch in batches:
        for frames in lengths:
            mels = noise_mels(batch, frames, model.settings.n_mels)
            probabilities, embeddings = session.run(["probabilities", "embeddings"], {"log_mel": mels})
            with torch.no_grad():
                logits = reference(torch.from_numpy(mels)).logits
                pooled = reference.encoder(torch.from_numpy(mels)).pooler_output
            expected = activate(logits, reference.config.problem_type)
            scale = max(1.0, float(expected.abs().max()))  # for a regression model
            assert probabilities.shape == tuple(expected.shape) and embeddings.shape == tuple(pooled.shape)
            np.testing.assert_allclose(probabilities, expected.numpy(), atol=TOLERANCE * scale, rtol=0)
            np.testing.assert_allclose(embeddings, pooled.numpy(), atol=TOLERANCE * float(pooled.abs().max()), rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "logit", "dm", "token"])
@pytest.mark.parametrize("kind", ["multi_label_classification", "single_label_classification", "regression"])
def test_every_pooling_and_problem_type_equals_torch(tmp_path, pooling, kind):
    assert_equals_torch(save(tmp_path, pooling=pooling, problem_type=kind))


@pytest.mark.parametrize(
    "fields",
    [
        {"qkv_bias": False},
        {"embed_dim": 16, "num_heads": 1, "depth": 1, "mlp_ratio": 2.5},
        {"n_mels": 32, "pooling": "dm"},
        {"num_labels": 1},
    ],
    ids=str,
)
def test_every_size_equals_torch(tmp_path, fields):
    assert_equals_torch(save(tmp_path, **fields), lengths=(16, 100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", ["1GB", "60KB"])
def test_weights_of_every_type_are_read_from_one_file_or_from_shards(tmp_path, dtype, shards):
    folder = save(tmp_path, dtype, max_shard_size=shards)
    assert len(list(folder.glob("*.safetensors"))) == 1 or shards == "60KB"
    assert_equals_torch(folder, lengths=(16, 100), batches=(2,))


@pytest.mark.parametrize("shards", ["1GB", "60KB"])
def test_weights_are_read_through_the_links_of_the_hubs_cache(tmp_path, shards):
    stored = save(tmp_path / "stored", max_shard_size=shards)
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(stored.iterdir())):
        shutil.move(path, blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    assert_equals_torch(snapshot, lengths=(100,), batches=(1,))


@pytest.mark.parametrize("target_length", [16, 160, 331, 480, 1012])
def test_positions_are_cut_or_interpolated_to_another_target_length(tmp_path, target_length):
    folder = save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"target_length": target_length}))
    assert_equals_torch(folder, lengths=tuple({16, target_length}), batches=(1,))


@pytest.mark.parametrize(
    "front_end",
    [
        FrontEnd(f_max=8000),
        FrontEnd(win_size=400),
        FrontEnd(center=False),
        FrontEnd(center=False, win_size=400, hop_size=200, f_min=50, f_max=7000),
        FrontEnd(sampling_rate=8000, n_fft=256, win_size=200, hop_size=100, n_mels=64),
    ],
    ids=str,
)
def test_waveforms_give_the_same_outputs_as_their_log_mels(tmp_path, front_end):
    model = open_model(save(tmp_path))
    by_mel, by_waveform = open_session(model), open_session(model, front_end=front_end)
    quiet = np.concatenate([np.zeros(900), 1e-3 * np.random.default_rng(0).standard_normal(900)]).astype(np.float32)
    for samples in (front_end.min_samples, 7001, 20_000):
        clips = (np.random.default_rng(1).standard_normal((2, samples)) * [[0.3], [1e-4]]).astype(np.float32)
        clips[0, : len(quiet)] = quiet[:samples]
        mels = np.stack([log_mel(clip, front_end) for clip in clips])
        expected = by_mel.run(None, {"log_mel": mels})
        for found, value in zip(by_waveform.run(None, {"waveform": clips}), expected, strict=True):
            np.testing.assert_allclose(found, value, atol=5e-5 * max(1.0, float(np.abs(value).max())), rtol=0)


def test_the_graph_can_contain_the_weights(tmp_path):
    model = open_model(save(tmp_path, torch.float16))
    graph = build_graph(model.settings, model.tensors, inline=True)
    assert [output.name for output in graph.graph.output] == ["probabilities", "embeddings"]
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    mels = noise_mels(2, 100)
    (expected,) = open_session(model).run(["probabilities"], {"log_mel": mels})
    np.testing.assert_allclose(session.run(None, {"log_mel": mels})[0], expected, atol=1e-6)


def test_the_graph_copies_no_weights(tmp_path):
    model = open_model(save(tmp_path))
    assert len(build_graph(model.settings, model.tensors).SerializeToString()) < 30_000
    assert (tmp_path / "model.safetensors").stat().st_size > 200_000


# Golden tensors


@pytest.fixture(scope="module")
def golden_cases() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "micro_cases.safetensors")


@pytest.mark.parametrize("name", [name for name, frames in CASES.items() if frames <= 1012])
def test_golden_probabilities(name, golden_cases):
    model = open_model(GOLDEN / "micro_hub")
    waveform = golden_cases[f"{name}.waveform"].numpy().astype(np.float32) / 32768
    (by_mel,) = open_session(model).run(["probabilities"], {"log_mel": log_mel(waveform, model.front_end)[None]})
    session = open_session(model, front_end=model.front_end)
    (by_waveform,) = session.run(["probabilities"], {"waveform": waveform[None]})
    for found in (by_mel, by_waveform):
        for expected in (golden_cases[f"{name}.logits"].sigmoid(), golden_cases[f"{name}.original_probabilities"]):
            np.testing.assert_allclose(found[0], expected.flatten().numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "logit", "dm", "token"])
def test_golden_poolings(pooling):
    cases = load_file(GOLDEN / "pooling_cases.safetensors")
    prefix = f"{pooling}.weights."
    weights = {name.removeprefix(prefix): TensorInMemory(cases[name].numpy()) for name in cases if prefix in name}
    tensors = {
        name if name.startswith("outputlayer.") else "encoder." + name.replace("init_bn.1.", "init_bn."): weight
        for name, weight in weights.items()
    }
    settings = replace(open_model(GOLDEN / "micro_hub").settings, pooling=pooling)
    session = onnxruntime.InferenceSession(build_graph(settings, tensors, inline=True).SerializeToString())
    mels = log_mel(cases["waveform"].numpy().astype(np.float32) / 32768, FrontEnd(f_max=8000))
    expected = cases[f"{pooling}.output"]
    expected = expected.sigmoid() if pooling == "logit" else expected
    (found,) = session.run(["probabilities"], {"log_mel": mels[None]})
    np.testing.assert_allclose(found[0], expected.flatten().numpy(), atol=TOLERANCE, rtol=0)


def test_golden_positions_of_a_longer_target_length():
    table = open_model(GOLDEN / "micro_hub").tensors["encoder.time_pos_embed"].read()
    expected = load_file(GOLDEN / "resized_positions.safetensors")["time_pos_embed.target_length_2024"]
    np.testing.assert_allclose(resize_positions(table, 2024 // 16), expected.numpy(), atol=1e-6)
