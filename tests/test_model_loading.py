# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Choice of engines, errors in one line, and models in the layout of the Hub cache."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch

from ced_model import AudioTagger, CedForAudioClassification, engines
from ced_model import packages as installed_packages
from ced_model.engines import Choice, MissingPackageError, choose_engine
from ced_model.messages import OptionError

ROOT = Path(__file__).parents[1]
MICRO = Path(__file__).parent / "golden" / "micro_hub"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Simulates installed packages, and whether there is a CUDA GPU."""

    def simulate(*packages: str, has_gpu: bool = False) -> None:
        def missing(names: tuple[str, ...]) -> list[str]:
            return [name for name in names if name not in packages]

        for module in (engines, installed_packages):
            monkeypatch.setattr(module, "missing", missing)
        monkeypatch.setattr(engines, "has_cuda_gpu", lambda: has_gpu)

    return simulate


ONNX, OPENVINO, TORCH = ("onnx", "onnxruntime"), ("openvino",), ("torch", "transformers")


@pytest.mark.parametrize(
    ("packages", "has_gpu", "options", "expected"),
    [
        ((*ONNX, *OPENVINO, *TORCH), False, {}, ("onnx", "float32", "cpu")),
        ((*ONNX, *OPENVINO, *TORCH), True, {}, ("torch", "float32", "cuda")),
        ((*ONNX, *OPENVINO, *TORCH), True, {"device": "cpu"}, ("onnx", "float32", "cpu")),
        ((*ONNX, *OPENVINO, *TORCH), True, {"compute_type": "int8"}, ("onnx", "int8", "cpu")),
        ((*ONNX, *OPENVINO, *TORCH), True, {"compute_type": "float16"}, ("torch", "float16", "cuda")),
        ((*ONNX, *OPENVINO, *TORCH), False, {"compute_type": "bfloat16"}, ("openvino", "bfloat16", "cpu")),
        ((*ONNX, *OPENVINO, *TORCH), False, {"device": "cuda:1"}, ("torch", "float32", "cuda:1")),
        (ONNX, True, {}, ("onnx", "float32", "cpu")),
        (OPENVINO, False, {}, ("openvino", "float32", "cpu")),
        (TORCH, False, {}, ("torch", "float32", "cpu")),
        ((*ONNX, *TORCH), False, {"compute_type": "bfloat16"}, ("torch", "bfloat16", "cpu")),
    ],
)
def test_auto_is_torch_on_a_cuda_gpu_and_else_the_fastest_installed(install, packages, has_gpu, options, expected):
    install(*packages, has_gpu=has_gpu)
    assert choose_engine(**options) == Choice(*expected)


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"engine": "tensorrt"}, "engine", "`engine='tensorrt'`: expected auto, onnx, openvino, torch"),
        ({"compute_type": "int4"}, "compute_type", "`compute_type='int4'`: expected float32, int8, bfloat16, float16"),
        (
            {"engine": "onnx", "compute_type": "float16"},
            "compute_type",
            "float32 or int8 with the engine onnx; float16 requires torch",
        ),
        ({"engine": "onnx", "device": "cuda"}, "device", "`device='cuda'`: expected cpu for the engine onnx"),
        ({"num_threads": 0}, "num_threads", "a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size", "a whole number from 1"),
    ],
)
def test_invalid_options_give_one_line_with_the_name_of_the_argument(options, name, message):
    with pytest.raises(OptionError) as refusal:
        AudioTagger(MICRO, **options)
    assert refusal.value.name == name and message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("options", [{"compute_type": "bfloat16"}, {"device": "cuda"}, {"engine": "jax"}])
def test_a_torch_model_is_used_without_copying(micro_model, options):
    with pytest.raises(OptionError) as refusal:
        AudioTagger(micro_model, **options)
    assert refusal.value.name in options
    assert AudioTagger(micro_model, device="cpu", compute_type="float32").engine == "torch"


@pytest.mark.parametrize(
    ("engine", "command"),
    [
        ("onnx", "requires onnx and onnxruntime: pip install onnxruntime onnx"),
        ("openvino", "requires openvino: pip install openvino"),
        ("torch", "requires torch and transformers: pip install torch torchaudio transformers"),
        ("auto", "requires onnx and onnxruntime: pip install"),
    ],
)
def test_a_missing_package_gives_one_line_with_the_command_to_install_it(install, engine, command):
    install()
    with pytest.raises(MissingPackageError) as refusal:
        AudioTagger(MICRO, engine=engine)
    assert command in str(refusal.value) and "\n" not in str(refusal.value)


def hub_cache(folder: Path, repository: str = "mispeech/ced-tiny") -> Path:
    """A Hub cache with a downloaded model: links to blobs."""
    cached = folder / f"models--{repository.replace('/', '--')}"
    snapshot = cached / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cached / "blobs").mkdir()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(sorted(MICRO.iterdir())):
        shutil.copy(path, cached / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    return folder


@pytest.mark.parametrize("engine", ["onnx", "openvino", "torch"])
def test_a_model_in_the_hubs_cache_is_used_offline(tmp_path, monkeypatch, engine):
    hub_cache(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tagger = AudioTagger("mispeech/ced-tiny", engine=engine, cache_dir=tmp_path)
    assert tagger.name == "mispeech/ced-tiny"
    clip = np.random.default_rng(0).normal(scale=0.1, size=8000).astype(np.float32)
    np.testing.assert_allclose(
        [tag.score for tag in tagger(clip)], [tag.score for tag in AudioTagger(MICRO)(clip)], atol=1e-5
    )
    assert isinstance(tagger.model, CedForAudioClassification)
    with pytest.raises(OSError, match=r"neither a local folder nor in the cache.*offline mode"):
        AudioTagger("mispeech/ced-base", cache_dir=tmp_path)


def test_tagging_imports_neither_torch_nor_transformers_and_the_hubs_client_only_for_a_hub_id(tmp_path):
    code = (
        "import sys, numpy; from ced_model import AudioTagger\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub'}\n"
        "clip = numpy.zeros(8000, 'f4') + 0.01\n"
        "tagger = AudioTagger(); tagger(clip); tagger.timeline(clip); tagger.embed(clip); tagger.fingerprint\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "AudioTagger('mispeech/ced-tiny')(clip)\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub_cache(tmp_path))}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.stdout.splitlines() == ["[]", "['huggingface_hub']"], run.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_with_the_name_of_their_tensor(micro_model, tmp_path, value, dtype):
    name = "encoder.blocks.1.mlp.fc1.weight"
    with torch.no_grad():
        micro_model.state_dict()[name].view(-1)[-1] = value
    micro_model.to(dtype).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"weights are damaged: {name} has NaN or infinite values") as refusal:
        AudioTagger(tmp_path)
    assert "\n" not in str(refusal.value)


def test_an_edited_model_has_another_fingerprint(tmp_path):
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    expected: Any = AudioTagger(MICRO).fingerprint
    assert AudioTagger(tmp_path).fingerprint == expected
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"problem_type": "regression"}))
    assert AudioTagger(tmp_path).fingerprint != expected
