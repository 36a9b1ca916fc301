# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of original checkpoints and Hub repositories into model folders, and their model cards."""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import soundfile
import torch
import yaml
from filelock import FileLock
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as HubConnectionError
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from ced_model import (
    CedConfig,
    CedFeatureExtractor,
    CedForAudioClassification,
    CedModel,
    custom_code,
    zenodo,
)
from ced_model.cli.app import app
from ced_model.configuration_ced import CED_SIZES
from ced_model.conversion import ConversionError, convert, convert_checkpoint, push_to_hub
from ced_model.conversion.checkpoint import _make_checkpoint
from ced_model.conversion.shape import make_config
from ced_model.custom_code import AUTO_MAP
from ced_model.model_card import PUBLISHED_FIGURES, create_model_card, published_eval_results
from ced_model.pretrained import MODEL_FILES

REPOSITORY = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
ORIGINAL = GOLDEN / "micro_original.pt"
TRAINING_CHECKPOINT = GOLDEN / "micro_original_training_checkpoint.pt"
MICRO_HUB = GOLDEN / "micro_hub"
CLASSES = (CedConfig, CedFeatureExtractor, CedModel, CedForAudioClassification)


def original_tensors() -> dict[str, torch.Tensor]:
    return torch.load(ORIGINAL, weights_only=True)


def save_original(path: Path, tensors: dict[str, Any]) -> Path:
    torch.save(tensors, path)
    return path


def copy_micro_hub(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    shutil.copytree(MICRO_HUB, folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def outputs(folder: Path) -> torch.Tensor:
    waveform = 0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(1))
    inputs = AutoFeatureExtractor.from_pretrained(folder)(waveform, sampling_rate=16000)
    model = AutoModelForAudioClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**inputs).logits


def fails(source: Path | str, output_dir: Path, **options: Any) -> str:
    """The one-line message of a failed conversion, which must leave no files."""
    before = sorted(output_dir.parent.iterdir())
    with pytest.raises(ValueError) as caught:
        convert_checkpoint(source, output_dir, **options)
    assert sorted(output_dir.parent.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run_python(code: str, cwd: Path, **environment: str) -> str:
    """Runs code in a new process without network access, and returns its output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_checkpoint(ORIGINAL, tmp_path_factory.mktemp("converted") / "ced-micro").folder


# --- Sources ---------------------------------------------------------------------------------------------------------


def test_every_source_format_gives_the_same_model(micro_folder: Path, tmp_path: Path) -> None:
    bare = original_tensors()
    stored = load_file(MICRO_HUB / "model.safetensors")
    for source in (TRAINING_CHECKPOINT, MICRO_HUB, micro_folder):
        folder = convert_checkpoint(source, tmp_path / source.stem).folder
        converted = load_file(folder / "model.safetensors")
        assert converted.keys() == stored.keys()
        assert all(torch.equal(converted[name], stored[name]) for name in stored)
        assert torch.equal(outputs(folder), outputs(micro_folder))
    weights = {name: tensor for name, tensor in bare.items() if not name.startswith("front_end.")}
    assert len(weights) == len(stored)
    assert torch.equal(stored["encoder.init_bn.running_var"], weights["init_bn.1.running_var"])
    assert torch.equal(outputs(micro_folder), outputs(MICRO_HUB))


def test_converted_outputs_equal_the_original_implementation(micro_folder: Path) -> None:
    cases = load_file(GOLDEN / "micro_cases.safetensors")
    extractor = CedFeatureExtractor.from_pretrained(micro_folder)
    model = CedForAudioClassification.from_pretrained(micro_folder).eval()
    for name in ("1s", "10s", "11s"):
        waveform = cases[f"{name}.waveform"].float() / 32768
        with torch.inference_mode():
            probabilities = model(**extractor(waveform, sampling_rate=16000)).logits.sigmoid()
        expected = cases[f"{name}.original_probabilities"].reshape(probabilities.shape)
        torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "logit", "dm", "token"])
def test_pooling_is_inferred_from_the_class_token_or_the_training_config(pooling: str, tmp_path: Path) -> None:
    cases = load_file(GOLDEN / "pooling_cases.safetensors")
    prefix = f"{pooling}.weights."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in cases.items() if name.startswith(prefix)}
    checkpoint: dict[str, Any] = {"model": tensors}
    if pooling != "token":
        checkpoint["config"] = {"pooling": pooling}
    folder = convert_checkpoint(save_original(tmp_path / "a.pt", checkpoint), tmp_path / "out").folder
    model = CedForAudioClassification.from_pretrained(folder).eval()
    assert model.config.pooling == pooling
    waveform = cases["waveform"].float()
    waveform = waveform.reshape(-1) / (32768 if waveform.abs().max() > 1 else 1)
    with torch.inference_mode():
        logits = model(**CedFeatureExtractor.from_pretrained(folder)(waveform, sampling_rate=16000)).logits
    output = cases[f"{pooling}.output"].reshape(logits.shape)
    torch.testing.assert_close(logits if pooling == "logit" else logits.sigmoid(), output, atol=1e-4, rtol=0)


def test_folder_is_complete_and_loads_as_classifier_and_encoder(micro_folder: Path) -> None:
    assert {path.name for path in micro_folder.iterdir()} == MODEL_FILES
    config = json.loads((micro_folder / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    preprocessor = json.loads((micro_folder / "preprocessor_config.json").read_text())
    assert preprocessor["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_ced.CedFeatureExtractor"}
    encoder = AutoModel.from_pretrained(micro_folder)
    assert torch.equal(encoder.state_dict()["norm.weight"], original_tensors()["norm.weight"])
    # Files have default permissions.
    assert len({path.stat().st_mode for path in micro_folder.iterdir()}) == 1


@pytest.mark.parametrize("size", sorted(CED_SIZES))
def test_published_shapes_are_recognised_from_the_tensors(size: str) -> None:
    with torch.device("meta"):
        model = CedForAudioClassification(CedConfig(name=size))
    tensors = {
        re.sub(r"^init_bn\.", "init_bn.1.", name.removeprefix("encoder.")): tensor
        for name, tensor in model.state_dict().items()
    }
    checkpoint = _make_checkpoint(tensors, {}, None, "`a.pt`.", None)
    config, notes = make_config(checkpoint, None)
    assert notes == []
    expected = model.config.to_dict()
    assert {field: value for field, value in config.to_dict().items() if expected[field] != value} == {}
    assert config.name == size


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with the shape and file name of the published ced-tiny."""
    torch.manual_seed(0)
    model = CedForAudioClassification(CedConfig(name="ced-tiny"))
    tensors = {
        re.sub(r"^init_bn\.", "init_bn.1.", name.removeprefix("encoder.")): tensor
        for name, tensor in model.state_dict().items()
    }
    return save_original(tmp_path_factory.mktemp("tiny") / "audiotransformer_tiny_mAP_4814.pt", tensors)


def test_a_downloaded_checkpoint_becomes_ced_tiny_with_labels_and_figures(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zenodo, "download_checkpoint", lambda size: tiny_checkpoint)
    assert run_script(["--download", "tiny", str(tmp_path / "tiny")]) == 0
    config = CedConfig.from_pretrained(tmp_path / "tiny")
    assert (config.name, config.id2label[0], config.id2label[21]) == ("ced-tiny", "Speech", "Chuckle, chortle")
    card = ModelCard.load(tmp_path / "tiny" / "README.md")
    assert card.data.base_model == "mispeech/ced-tiny"
    assert [result.metric_value for result in card.data.eval_results] == [48.1]
    assert "two million 10-second clips" in card.text


def test_weights_that_are_not_verified_as_published_have_no_published_results(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = convert_checkpoint(tiny_checkpoint, tmp_path / "tiny")
    assert (done.size, done.num_labels, done.notes) == ("ced-tiny", 527, ())
    assert 5.4e6 < done.parameters < 5.6e6
    again = convert_checkpoint(done.folder, tmp_path / "mispeech" / "ced-tiny")  # the name of a folder is no evidence
    wrong = convert_checkpoint(tiny_checkpoint, tmp_path / "wrong", published="mini")
    for folder in (done.folder, again.folder, wrong.folder):
        card = ModelCard.load(folder / "README.md")
        assert (card.data.base_model, card.data.eval_results, card.data.datasets) == (None, None, None)
        assert "training data of these weights are not known" in card.text and "48.1" not in card.text
        assert "two million" not in card.text


@pytest.mark.parametrize(("hub_id", "figures"), [("mispeech/ced-tiny", [48.1]), ("someone/ced-tiny", [])])
def test_only_the_published_hub_repositories_have_the_published_results(
    hub_id: str, figures: list[float], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = convert_checkpoint(tiny_checkpoint, tmp_path / "snapshot").folder
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, **options: str(snapshot))
    monkeypatch.chdir(tmp_path)
    card = ModelCard.load(convert_checkpoint(hub_id, tmp_path / "out").folder / "README.md")
    assert card.data.base_model == hub_id
    assert [result.metric_value for result in card.data.eval_results or []] == figures


def test_names_of_tensors_are_printed_without_escape_sequences(tmp_path: Path) -> None:
    tensors = torch.load(ORIGINAL, weights_only=True) | {"blocks.9\x1b[31m\nred": torch.zeros(3)}
    message = fails(save_original(tmp_path / "colour.pt", tensors), tmp_path / "out")
    assert "blocks.9\\x1b[31m red" in message and message.isprintable()


def test_sizes_follow_the_tensors_and_the_training_config(tmp_path: Path) -> None:
    config = CedConfig(
        embed_dim=40, depth=2, num_heads=5, mlp_ratio=2.5, outputdim=7, target_length=320, n_mels=128, qkv_bias=False
    )
    tensors = dict(CedForAudioClassification(config).state_dict())
    settings = {"num_heads": 5, "eval_avg": "max", "pad_last": False, "target_length": 330, "optimizer": "Adam"}
    source = save_original(tmp_path / "own.pt", {"model": tensors, "config": settings})
    folder = convert_checkpoint(source, tmp_path / "out").folder
    loaded = CedConfig.from_pretrained(folder)
    fields = ("embed_dim", "depth", "num_heads", "mlp_ratio", "num_labels", "n_mels", "qkv_bias")
    assert [getattr(loaded, field) for field in fields] == [getattr(config, field) for field in fields]
    assert (loaded.eval_avg, loaded.pad_last, loaded.target_length) == ("max", False, 330)
    assert CedFeatureExtractor.from_pretrained(folder).feature_size == 128

    without = save_original(tmp_path / "without.pt", tensors)
    assert "--num-heads" in fails(without, tmp_path / "none")  # 40 is a multiple of neither 64 nor 16
    done = convert_checkpoint(without, tmp_path / "asked", num_heads=5)
    asked = CedConfig.from_pretrained(done.folder)
    assert (asked.num_heads, asked.target_length, done.notes) == (5, 320, ())
    assert "configuration has 5" in fails(source, tmp_path / "contradicted", num_heads=4)
    assert "multiple" in fails(without, tmp_path / "indivisible", num_heads=3)


def test_an_assumed_number_of_heads_is_reported(tmp_path: Path) -> None:
    done = convert_checkpoint(ORIGINAL, tmp_path / "out")
    assert len(done.notes) == 1 and "assumed 3 attention heads" in done.notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_unchanged(dtype: torch.dtype, tmp_path: Path) -> None:
    halves = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in original_tensors().items()
    }
    folder = convert_checkpoint(save_original(tmp_path / "half.pt", halves), tmp_path / "out").folder
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(stored["encoder.norm.weight"], halves["norm.weight"])
    assert stored["encoder.norm.weight"].dtype == dtype
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_mixed_precision_weights_are_widened(tmp_path: Path) -> None:
    tensors = original_tensors()
    tensors["norm.weight"] = tensors["norm.weight"].bfloat16()
    folder = convert_checkpoint(save_original(tmp_path / "mixed.pt", tensors), tmp_path / "out").folder
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32, torch.int64}
    assert torch.equal(stored["encoder.norm.weight"], tensors["norm.weight"].float())


# --- Masked autoencoders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_masked_autoencoder_becomes_an_encoder_without_a_head(prefix: str, tmp_path: Path) -> None:
    encoder = {name: tensor for name, tensor in original_tensors().items() if not name.startswith("outputlayer.")}
    decoder = {"mask_token": torch.zeros(1, 1, 24), "decoder_embed.weight": torch.zeros(24, 48)}
    decoder["decoder.blocks.0.norm1.weight"] = torch.ones(24)
    tensors = {**{prefix + name: tensor for name, tensor in encoder.items()}, **decoder}
    done = convert_checkpoint(save_original(tmp_path / "mae.pt", {"model": tensors}), tmp_path / "mae")
    assert (done.architecture, done.num_labels) == ("CedModel", None)
    assert all(name in done.notes[-1] for name in decoder)

    model, report = AutoModel.from_pretrained(done.folder, output_loading_info=True)
    assert isinstance(model, CedModel) and not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(model.init_bn.running_mean, encoder["init_bn.1.running_mean"])
    card = ModelCard.load(done.folder / "README.md")
    assert card.data.pipeline_tag == "feature-extraction"
    assert card.data.eval_results is None and card.data.get("metrics") is None
    assert "no classification" in card.text and "mAP" not in card.text
    again = convert_checkpoint(done.folder, tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (done.folder / "model.safetensors").read_bytes()


def test_an_encoder_of_a_published_shape_has_no_published_results() -> None:
    config = CedConfig(name="ced-tiny")
    with torch.device("meta"):
        encoder = CedModel(config)
    card = create_model_card(encoder, model_id="user/mae", source="`a.pt`.")
    assert "48.1" not in str(card) and card.data.base_model is None
    with pytest.raises(ValueError, match="not possible for an encoder"):
        create_model_card(encoder, model_id="user/mae", source="x", eval_results=published_eval_results(config))


# --- Invalid sources -------------------------------------------------------------------------------------------------


def test_every_unknown_missing_and_misshapen_tensor_is_listed(tmp_path: Path) -> None:
    tensors = original_tensors()
    del tensors["blocks.1.mlp.fc2.bias"], tensors["init_bn.1.running_var"]
    tensors["blocks.0.attn.rel_pos"] = torch.zeros(3)
    tensors["teacher.norm.weight"] = torch.zeros(48)
    tensors["patch_embed.proj.weight"] = torch.zeros(50, 1, 16, 16)
    tensors["outputlayer.1.bias"] = torch.zeros(12)
    tensors["norm.bias"] = tensors["norm.bias"].long()
    tensors["norm.weight"][3] = float("nan")
    message = fails(save_original(tmp_path / "bad.pt", tensors), tmp_path / "out")
    assert "2 missing: init_bn.1.running_var, blocks.1.mlp.fc2.bias" in message or (
        "2 missing: blocks.1.mlp.fc2.bias, init_bn.1.running_var" in message
    )
    assert "2 unknown: blocks.0.attn.rel_pos, teacher.norm.weight" in message
    assert "patch_embed.proj.weight (50, 1, 16, 16) instead of (48, 1, 16, 16)" in message
    assert "1 of the wrong type: norm.bias torch.int64" in message
    assert "1 with NaN or infinite values: norm.weight" in message
    # The head's two tensors have different sizes: either of them may be reported.
    assert re.search(r"2 misshapen:.*outputlayer\.1\.(weight|bias)", message)


@pytest.mark.parametrize("name", sorted(name for name in original_tensors() if not name.startswith("front_end.")))
def test_any_single_missing_tensor_is_listed(name: str, tmp_path: Path) -> None:
    tensors = original_tensors()
    del tensors[name]
    checkpoint = _make_checkpoint(tensors, {}, None, "`a.pt`.", None)
    config, _ = make_config(checkpoint, None)
    if name == "blocks.0.attn.qkv.bias":  # inferred from the other blocks
        assert config.qkv_bias
    with pytest.raises(ConversionError, match=f"1 missing: {re.escape(name)}$"):
        convert._build_model(checkpoint, config)


def test_a_wrong_block_number_does_not_make_a_huge_model(tmp_path: Path) -> None:
    tensors = {**original_tensors(), "blocks.999999999.norm1.weight": torch.ones(48)}
    assert "blocks.999999999.norm1.weight" in fails(save_original(tmp_path / "a.pt", tensors), tmp_path / "out")


def test_one_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    tensors = {**original_tensors(), "encoder.norm.weight": torch.zeros(48)}
    message = fails(save_original(tmp_path / "a.pt", tensors), tmp_path / "out")
    assert "both norm.weight and encoder.norm.weight" in message


@pytest.mark.parametrize("protocol", ["zip", "legacy"])
def test_python_objects_in_a_checkpoint_are_listed_and_not_loaded(protocol: str, tmp_path: Path) -> None:
    checkpoint = {"model": original_tensors(), "args": argparse.Namespace(lr=0.1)}
    torch.save(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=protocol == "zip")
    message = fails(tmp_path / "a.pt", tmp_path / "out")
    assert "argparse.Namespace" in message and "state_dict() and convert" in message


class RunsCode:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    torch.save({"model": original_tensors(), "x": RunsCode(tmp_path / "ran")}, tmp_path / "a.pt")
    assert "Python objects" in fails(tmp_path / "a.pt", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def write_damaged(path: Path, kind: str) -> None:
    content = ORIGINAL.read_bytes()
    middle = len(content) // 2
    damaged = {
        "empty": b"",
        "text": b"this is no checkpoint\n" * 50,
        "noise": bytes(range(256)) * 8,
        "truncated": content[:middle],
        "flipped": content[:middle]
        + bytes(byte ^ 255 for byte in content[middle : middle + 8])
        + content[middle + 8 :],
    }
    path.write_bytes(damaged[kind])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["empty", "text", "noise", "truncated", "flipped"])
def test_damaged_files_are_refused(kind: str, tmp_path: Path) -> None:
    write_damaged(tmp_path / "a.pt", kind)
    assert "a.pt is damaged or not a PyTorch checkpoint" in fails(tmp_path / "a.pt", tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"model": [1, 2]}, {"state_dict": {"norm.weight": 1}}, {"model": {"norm.weight": "x"}}, torch.zeros(3)],
)
def test_files_without_a_state_dict_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert "neither a state dict" in fails(tmp_path / "a.pt", tmp_path / "out")


def test_another_models_state_dict_is_refused(tmp_path: Path) -> None:
    source = save_original(tmp_path / "a.pt", {"conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)})
    message = fails(source, tmp_path / "out")
    assert "no tensors of a CED encoder" in message and "conv1.weight" in message
    assert "found nothing" in fails(save_original(tmp_path / "b.pt", {}), tmp_path / "out")


def test_a_wrong_training_config_is_refused(tmp_path: Path) -> None:
    checkpoint = {"model": original_tensors(), "config": {"pooling": "median"}}
    message = fails(save_original(tmp_path / "a.pt", checkpoint), tmp_path / "out")
    assert "pooling" in message and "median" in message


def test_sources_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    assert "missing.pt does not exist" in fails(tmp_path / "missing.pt", tmp_path / "out")
    assert "does not exist" in fails("folder/missing.pt", tmp_path / "out")
    assert "does not exist" in fails("not a repo id", tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_a_needed_file_is_refused(name: str, tmp_path: Path) -> None:
    folder = copy_micro_hub(tmp_path)
    (folder / name).unlink()
    assert f"has no {name}" in fails(folder, tmp_path / "out")


def test_folders_with_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = copy_micro_hub(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:5000])
    assert "model.safetensors cannot be read" in fails(folder, tmp_path / "out")
    assert "give the folder" in fails(folder / "model.safetensors", tmp_path / "out")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "preprocessor_config.json").write_text("{")
    assert "preprocessor_config.json is not valid JSON" in fails(folder, tmp_path / "out")
    (folder / "preprocessor_config.json").unlink()
    edit_json(folder / "config.json", depth=4)
    message = fails(folder, tmp_path / "out")
    assert "12 missing" in message and "encoder.blocks.3.norm1.weight" in message
    edit_json(folder / "config.json", depth=3, num_heads=5)
    assert "num_heads" in fails(folder, tmp_path / "out")
    edit_json(folder / "config.json", model_type="bert")
    assert '"model_type" must be "ced"' in fails(folder, tmp_path / "out")
    (folder / "config.json").write_text("{")
    assert "config.json is not valid JSON" in fails(folder, tmp_path / "out")


def test_a_feature_extractor_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    folder = copy_micro_hub(tmp_path)
    edit_json(folder / "preprocessor_config.json", feature_size=128)
    assert "128 mel bins in preprocessor_config.json, but config.json has `n_mels` 64" in fails(
        folder, tmp_path / "out"
    )
    edit_json(folder / "preprocessor_config.json", feature_size=64, f_min=9000)
    assert "f_min" in fails(folder, tmp_path / "out")


def test_a_model_that_cannot_be_run_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(CedForAudioClassification, "forward", forward)
    assert "cannot be run; the folder was removed: out of memory" in fails(ORIGINAL, tmp_path / "out")


# --- Model folders ---------------------------------------------------------------------------------------------------


def test_user_settings_of_a_hub_folder_are_kept_but_not_its_old_code(tmp_path: Path) -> None:
    folder = copy_micro_hub(tmp_path)
    edit_json(
        folder / "config.json", auto_map={"AutoModel": "someone/else--modeling.Ced"}, own_field=[1, 2], f_max=7000
    )
    edit_json(folder / "preprocessor_config.json", auto_map={"AutoFeatureExtractor": "old.Extractor"}, f_max=7000)
    (folder / "modeling_ced.py").write_text("raise SystemError\n")
    done = convert_checkpoint(folder, tmp_path / "out").folder
    config = json.loads((done / "config.json").read_text())
    assert config["own_field"] == [1, 2] and config["id2label"]["3"] == "class 3"
    assert config["auto_map"] == custom_code.AUTO_MAP
    preprocessor = json.loads((done / "preprocessor_config.json").read_text())
    assert preprocessor["f_max"] == 7000 and preprocessor["auto_map"] == custom_code.EXTRACTOR_AUTO_MAP
    assert (done / "modeling_ced.py").read_text() == (REPOSITORY / "ced_model/modeling_ced.py").read_text()


def test_conversion_does_not_change_classes_random_states_and_progress_bars(tmp_path: Path) -> None:
    before = [vars(cls).get("_auto_class") for cls in CLASSES]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    convert_checkpoint(ORIGINAL, tmp_path / "out")
    assert [vars(cls).get("_auto_class") for cls in CLASSES] == before
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_with_files_is_not_changed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    convert_checkpoint(ORIGINAL, target)  # an empty folder is accepted
    (target / "README.md").write_text("mine")
    assert "not empty" in fails(MICRO_HUB, target)
    assert (target / "README.md").read_text() == "mine"
    convert_checkpoint(MICRO_HUB, target, overwrite=True)
    assert (target / "README.md").read_text() != "mine"
    (target / "notes.txt").write_text("mine")
    assert "notes.txt" in fails(MICRO_HUB, target, overwrite=True)
    assert (target / "notes.txt").read_text() == "mine"
    assert "is not a folder" in fails(ORIGINAL, target / "notes.txt")


def test_a_folder_can_be_converted_in_place(tmp_path: Path) -> None:
    folder = copy_micro_hub(tmp_path)
    expected = outputs(folder)
    convert_checkpoint(folder, folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} == MODEL_FILES
    assert torch.equal(outputs(folder), expected)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["save_model_folder", "_verify"])
def test_an_interrupted_write_keeps_the_old_folder(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = convert_checkpoint(ORIGINAL, tmp_path / "out").folder
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(convert, step, interrupt)
    with pytest.raises((ConversionError, KeyboardInterrupt)) as caught:
        convert_checkpoint(MICRO_HUB, target, overwrite=True)
    if isinstance(error, OSError):
        assert "could not be written" in str(caught.value) and "No space left" in str(caught.value)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert list(tmp_path.iterdir()) == [target]


def kept_folder(error: Exception) -> Path:
    """The folder in the error message, with the result whose name was taken."""
    return Path(str(error).partition("the result is in ")[2].partition(": ")[0])


def test_a_failed_move_restores_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = convert_checkpoint(ORIGINAL, tmp_path / "out").folder
    (target / "README.md").write_text("mine")
    rename = os.rename

    def fail_once(source: Path, destination: Path) -> None:
        if destination == target:
            monkeypatch.undo()
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(ConversionError, match="Input/output error; the result is in ") as caught:
        convert_checkpoint(MICRO_HUB, target, overwrite=True)
    kept = kept_folder(caught.value)
    assert sorted(tmp_path.iterdir()) == sorted([target, kept]) and (kept / "model.safetensors").exists()
    assert (target / "README.md").read_text() == "mine"


def test_a_folder_that_appears_during_the_work_is_unchanged_and_the_model_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, check = tmp_path / "out", convert._verify
    for overwrite in (False, True):

        def appear(*arguments: Any) -> None:
            check(*arguments)
            target.mkdir(exist_ok=True)
            (target / "mine.txt").write_text("mine")

        monkeypatch.setattr(convert, "_verify", appear)
        (target / "mine.txt").unlink(missing_ok=True)
        with pytest.raises(ConversionError, match="left as it is; the result is in ") as caught:
            convert_checkpoint(MICRO_HUB, target, overwrite=overwrite)
        kept = kept_folder(caught.value)
        assert (kept / "model.safetensors").exists() and [path.name for path in target.iterdir()] == ["mine.txt"]


def change_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.norm.bias"][7] += 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def drop_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.norm.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (change_weight, "tensors differ from the source; the folder was removed: encoder.norm.bias"),
        (drop_weight, "tensors differ from the source; the folder was removed: encoder.norm.bias"),
        (lambda folder: edit_json(folder / "config.json", num_heads=1), "outputs differ"),
        (lambda folder: edit_json(folder / "preprocessor_config.json", f_max=4000), "outputs differ"),
        (lambda folder: (folder / "modeling_ced.py").unlink(), "modeling_ced.py missing"),
    ],
)
def test_a_written_folder_that_differs_from_the_source_is_removed(
    damage: Any, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = convert.save_model_folder

    def save_and_damage(model: Any, extractor: Any, folder: Path, card: ModelCard) -> None:
        save(model, extractor, folder, card)
        damage(folder)

    monkeypatch.setattr(convert, "save_model_folder", save_and_damage)
    assert complaint in fails(ORIGINAL, tmp_path / "out")


# --- Model card ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", sorted(CED_SIZES))
def test_published_figures_are_in_the_card_of_each_size(size: str) -> None:
    config = CedConfig(name=size)
    results = published_eval_results(config)
    card = create_model_card(
        config, model_id=f"user/{size}", source="`a.pt`.", base_model=f"mispeech/{size}", eval_results=results
    )
    metadata = yaml.safe_load(ModelCard(str(card)).data.to_yaml())
    assert metadata["license"] == "apache-2.0"
    assert metadata["datasets"] == ["agkphysics/AudioSet"]
    assert metadata["metrics"] == ["mAP"]
    assert metadata["pipeline_tag"] == "audio-classification"
    assert [entry["src"].rpartition(".")[2] for entry in metadata["widget"]] == ["flac"]
    assert metadata["library_name"] == "transformers"
    assert metadata["base_model"] == f"mispeech/{size}"
    (entry,) = metadata["model-index"]
    assert entry["name"] == size
    (result,) = entry["results"]
    assert result["task"]["type"] == "audio-classification"
    assert result["dataset"] | {"args": None} == {
        "type": "agkphysics/AudioSet",
        "name": "AudioSet",
        "config": "full",
        "split": "test",
        "args": None,
    }
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("mAP", PUBLISHED_FIGURES[size].audioset)
    assert result["source"]["url"] == "https://arxiv.org/abs/2308.11957"
    assert str(PUBLISHED_FIGURES[size].balanced) in card.text


def test_published_figures_are_those_of_the_paper() -> None:
    assert {size: tuple(figures) for size, figures in PUBLISHED_FIGURES.items()} == {
        "ced-tiny": (48.1, 36.5),
        "ced-mini": (49.0, 38.5),
        "ced-small": (49.6, 41.6),
        "ced-base": (50.0, 44.0),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"num_labels": 10},
        {"id2label": {index: f"sound {index}" for index in range(527)}},
        {"depth": 11},
        {"pooling": "dm"},
        {"embed_dim": 96, "num_heads": 6},
        {"num_heads": 6, "embed_dim": 192},
    ],
)
def test_other_models_have_no_published_results(changes: dict[str, Any]) -> None:
    assert published_eval_results(CedConfig(**{"name": "ced-tiny", **changes})) == []


def test_the_card_of_a_fine_tuned_model_has_its_classes_results_and_base_model() -> None:
    config = CedConfig(name="ced-tiny", id2label={0: "dog", 1: "`cat`\n# no heading"})
    result = EvalResult("audio-classification", "user/pets", "Pets", "accuracy", 91.5, dataset_split="test")
    card = create_model_card(
        config,
        model_id="user/pets-tiny",
        source="Fine-tuned on Pets.",
        base_model="mispeech/ced-tiny",
        eval_results=[result],
        datasets=["user/pets"],
        training_data="Two hours of pets.",
        license="cc-by-4.0",
    )
    metadata = card.data.to_dict()
    assert metadata["datasets"] == ["user/pets"] and metadata["metrics"] == ["accuracy"]
    assert metadata["license"] == "cc-by-4.0" and "audioset" not in metadata["tags"]
    for text in ("2 classes: `dog`, ` cat # no heading`", "91.5", "Two hours of pets.", "mispeech/ced-tiny"):
        assert text in card.text
    for claim in ("mAP", "48.1", "two million"):
        assert claim not in card.text
    silent = create_model_card(config, model_id="user/pets-tiny", source="Fine-tuned.")
    assert silent.data.eval_results is None and "These weights have not been evaluated" in silent.text
    assert silent.data.to_dict().get("datasets") is None


def test_a_model_is_not_its_own_base_model_in_the_card() -> None:
    card = create_model_card(CedConfig(), model_id="mispeech/ced-base", source="x", base_model="mispeech/ced-base")
    assert card.data.base_model is None


def test_card_passes_through_the_hubs_validation_call(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CedConfig(name="ced-mini")
    card = create_model_card(config, model_id="user/m", source="x", eval_results=published_eval_results(config))
    sent: list[dict[str, str]] = []

    def post(url: str, json: dict[str, str], headers: dict[str, str]) -> SimpleNamespace:
        sent.append(json)
        return SimpleNamespace(status_code=200)

    monkeypatch.setattr("huggingface_hub.repocard.get_session", lambda: SimpleNamespace(post=post))
    monkeypatch.setattr("huggingface_hub.repocard.hf_raise_for_status", lambda response: None)
    card.validate()
    ((body),) = sent
    assert body["repoType"] == "model"
    header = re.match(r"---\n(.*?)\n---\n", body["content"], re.DOTALL)
    assert header and yaml.safe_load(header[1])["model-index"][0]["results"]


def card_snippets(folder: Path) -> list[str]:
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len([code for code in snippets if "trust_remote_code=True" in code]) == len(snippets) / 2 > 0
    assert all(("import ced_model" in code) != ("trust_remote_code=True" in code) for code in snippets)
    return snippets


def test_code_in_the_cards_runs_as_printed(tmp_path: Path, resources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the custom code only, and with the package."""
    soundfile.write(tmp_path / "recording.wav", *soundfile.read(resources / "misc_crow.flac"))
    tensors = original_tensors()
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("outputlayer.")}
    snippets = []
    for name, content in (("tagger", tensors), ("encoder", encoder)):
        # A folder `user/name` in the working directory stands for the Hub repository of that name.
        source = save_original(tmp_path / f"{name}.pt", content)
        folder = convert_checkpoint(source, tmp_path / "user" / name, model_id=f"user/{name}").folder
        snippets += card_snippets(folder)
    remote = "".join(code for code in snippets if "trust_remote_code" in code)
    local = "".join(code for code in snippets if "import ced_model" in code)
    without_package = "import sys; sys.modules['ced_model'] = sys.modules['torchaudio'] = None\n"
    printed = run_python(without_package + remote, tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert "LABEL_" in printed and "torch.Size([48])" in printed
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(io.StringIO()) as here:
        exec(local, {})
    assert here.getvalue() == printed


# --- Hub -------------------------------------------------------------------------------------------------------------


def test_a_hub_id_is_downloaded_and_becomes_the_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.append(repo_id)
        assert "config.json" in options["allow_patterns"]
        return str(MICRO_HUB)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    folder = convert_checkpoint("user/ced-micro", tmp_path / "out").folder
    assert asked == ["user/ced-micro"]
    assert ModelCard.load(folder / "README.md").data.base_model == "user/ced-micro"


def http_error(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} Client Error.\n\nMore lines", response=response)


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (LocalEntryNotFoundError("Got: ConnectError\nCheck your connection"), "the Hugging Face Hub cannot be reached"),
        (HubConnectionError("[Errno -2] Name or service not known"), "check the name, or give a local folder"),
        (
            http_error(RepositoryNotFoundError, 404),
            "on the Hugging Face Hub it does not exist, or is private: check the name",
        ),
    ],
)
def test_a_hub_id_that_cannot_be_downloaded_gives_one_line(
    error: Exception, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(repo_id: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    message = fails("user/ced-micro", tmp_path / "out")
    assert "user/ced-micro" in message and complaint in message


class StandInHub:
    """Records uploads, or raises `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.uploaded: dict[str, set[str]] = {}

    def create_repo(self, repo_id: str, exist_ok: bool) -> huggingface_hub.RepoUrl:
        assert exist_ok
        if self.error is not None:
            raise self.error
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert commit_message
        self.uploaded[repo_id] = {path.name for path in folder_path.iterdir()}


def test_push_uploads_the_complete_folder(micro_folder: Path) -> None:
    hub: Any = StandInHub()
    assert push_to_hub(micro_folder, "user/ced-micro", hub) == "https://huggingface.co/user/ced-micro"
    assert hub.uploaded == {"user/ced-micro": MODEL_FILES}


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (LocalTokenNotFoundError("Token is required\nbut no token found"), "log in"),
        (http_error(HfHubHTTPError, 401), "log in"),
        (http_error(HfHubHTTPError, 403), "has no write access"),
        (http_error(HfHubHTTPError, 500), "the Hub returned 500"),
        (HubConnectionError("[Errno -2] Name or service not known"), "check the network"),
    ],
)
def test_a_failed_upload_gives_one_line_and_keeps_the_folder(
    error: Exception, complaint: str, micro_folder: Path
) -> None:
    hub: Any = StandInHub(error)
    with pytest.raises(ConversionError, match=complaint) as caught:
        push_to_hub(micro_folder, "user/ced-micro", hub)
    assert "\n" not in str(caught.value) and str(micro_folder) in str(caught.value)
    assert {path.name for path in micro_folder.iterdir()} == MODEL_FILES


# --- Download --------------------------------------------------------------------------------------------------------

CONTENT = ORIGINAL.read_bytes()
TINY = zenodo.ORIGINAL_CHECKPOINTS["tiny"]


class StandInZenodo(BaseHTTPRequestHandler):
    """Serves `CONTENT` and its description under one record, as configured by the class attributes."""

    content = CONTENT
    checksum = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    description: bytes | None = None  # instead of that of the record
    record = zenodo.ZENODO_RECORDS[0]
    honours_range = True
    status = 200
    break_off_after: int | None = None
    requests: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        cls = type(self)
        if self.path.startswith("/api/records/"):
            return self.describe()
        asked = self.headers.get("Range")
        cls.requests.append((self.path.split("/")[2], asked))
        if f"/{cls.record}/" not in self.path or not self.path.endswith(f"/files/{TINY}?download=1"):
            return self.send_error(404)
        if cls.status != 200:
            return self.send_error(cls.status)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and cls.honours_range else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = start + cls.break_off_after if cls.break_off_after else None
        cls.break_off_after = None
        self.wfile.write(cls.content[start:end])

    def describe(self) -> None:
        cls = type(self)
        if cls.status != 200 or self.path != f"/api/records/{cls.record}":
            return self.send_error(404 if cls.status == 200 else cls.status)
        file = {"key": TINY, "size": len(CONTENT), "checksum": cls.checksum}
        body = json.dumps({"files": [{"key": "other.pt", "size": 1, "checksum": "md5:"}, file]}).encode()
        body = body if cls.description is None else cls.description
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandInZenodo]]:
    class Handler(StandInZenodo):
        requests: list[tuple[str, str | None]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        monkeypatch.setattr(zenodo, "ZENODO_URL", f"http://127.0.0.1:{http_server.server_port}/records")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield Handler
        http_server.shutdown()
        thread.join()


def test_download_writes_the_file_once(server: type[StandInZenodo], tmp_path: Path) -> None:
    path = zenodo.download_checkpoint("tiny", tmp_path / "cache")
    assert path == tmp_path / "cache" / TINY and path.read_bytes() == CONTENT
    assert files_in(path.parent) == [TINY, f"{TINY}.md5"]
    server.status = 503  # no more network access is needed
    assert zenodo.download_checkpoint("tiny", tmp_path / "cache") == path
    assert server.requests == [("8275347", None)]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


DAMAGED = CONTENT[:5000] + b"?" + CONTENT[5001:]  # of the same size


def test_a_download_with_a_wrong_checksum_is_removed(server: type[StandInZenodo], tmp_path: Path) -> None:
    server.content = DAMAGED
    with pytest.raises(zenodo.DownloadError, match="is damaged: md5 .* was removed: run the same command") as caught:
        zenodo.download_checkpoint("tiny", tmp_path)
    assert "\n" not in str(caught.value) and files_in(tmp_path) == []
    server.content = CONTENT
    assert zenodo.download_checkpoint("tiny", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("is_known", [True, False], ids=["downloaded before", "from elsewhere"])
@pytest.mark.parametrize("content", [DAMAGED, CONTENT[:-1], b""])
def test_an_existing_file_with_a_wrong_checksum_is_downloaded_again(
    content: bytes, is_known: bool, server: type[StandInZenodo], tmp_path: Path
) -> None:
    path = zenodo.download_checkpoint("tiny", tmp_path)
    path.write_bytes(content)
    if not is_known:
        path.with_name(f"{TINY}.md5").unlink()
    assert zenodo.download_checkpoint("tiny", tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_an_existing_file_that_was_not_verified_is_verified(server: type[StandInZenodo], tmp_path: Path) -> None:
    (tmp_path / TINY).write_bytes(CONTENT)
    assert zenodo.download_checkpoint("tiny", tmp_path) == tmp_path / TINY
    assert server.requests == [] and files_in(tmp_path) == [TINY, f"{TINY}.md5"]


def test_a_part_of_another_file_is_not_continued(server: type[StandInZenodo], tmp_path: Path) -> None:
    (tmp_path / f"{TINY}.part").write_bytes(DAMAGED[:9000])
    assert zenodo.download_checkpoint("tiny", tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["bytes=9000-", None]


@pytest.mark.parametrize(
    "description",
    [
        b"",
        b"{}",
        b'{"files": 3}',
        b'{"files": [{"key": 1}]}',
        b"[" * 100_000,
        f'{{"files": [{{"key": "{TINY}"}}]}}'.encode(),
    ]
    + [
        json.dumps({"files": [{"key": TINY, "size": size, "checksum": checksum}]}).encode()
        for size, checksum in ((1, "sha1:abc"), (1, None), ("1", "md5:" + 32 * "0"), (1, "md5:../.."))
    ],
)
def test_a_record_without_checksums_is_refused(description: bytes, server: type[StandInZenodo], tmp_path: Path) -> None:
    server.description = description
    with pytest.raises(zenodo.DownloadError, match="has no checksum of") as caught:
        zenodo.download_checkpoint("tiny", tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 and server.requests == []


def test_two_processes_do_not_write_the_same_file(server: type[StandInZenodo], tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / f"{TINY}.lock"),
        pytest.raises(zenodo.DownloadError, match="another process is downloading"),
    ):
        zenodo.download_checkpoint("tiny", tmp_path)


def test_download_falls_back_on_the_second_record(server: type[StandInZenodo], tmp_path: Path) -> None:
    server.record = zenodo.ZENODO_RECORDS[1]
    assert zenodo.download_checkpoint("tiny", tmp_path).read_bytes() == CONTENT
    assert server.requests == [("8275319", None)]


@pytest.mark.parametrize("honours_range", [True, False])
def test_an_interrupted_download_continues_and_in_another_run(
    honours_range: bool, server: type[StandInZenodo], tmp_path: Path
) -> None:
    server.honours_range, server.break_off_after = honours_range, 100_000
    (tmp_path / f"{TINY}.part").write_bytes(CONTENT[:1000])
    assert zenodo.download_checkpoint("tiny", tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests][0] == "bytes=1000-" and len(server.requests) == 2
    assert files_in(tmp_path) == [TINY, f"{TINY}.md5"]


def test_an_interrupted_download_gives_one_line(
    server: type[StandInZenodo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(zenodo, "http_get", interrupted)
    with pytest.raises(zenodo.DownloadError, match=r"was interrupted \(timed out\): run the same command"):
        zenodo.download_checkpoint("tiny", tmp_path)


def test_a_part_may_be_complete_or_too_long(server: type[StandInZenodo], tmp_path: Path) -> None:
    for part in (CONTENT, CONTENT + b"too long"):
        (tmp_path / f"{TINY}.part").write_bytes(part)
        assert zenodo.download_checkpoint("tiny", tmp_path).read_bytes() == CONTENT
        (tmp_path / TINY).unlink()
    assert [asked for _, asked in server.requests] == [None]


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        ({"record": "0"}, "404"),
        ({"status": 503}, "503"),
        ({"description": b"<html>log in"}, "has no checksum of"),
    ],
)
def test_failed_downloads_give_one_line(
    behaviour: dict[str, Any], complaint: str, server: type[StandInZenodo], tmp_path: Path
) -> None:
    for name, value in behaviour.items():
        setattr(server, name, value)
    with pytest.raises(zenodo.DownloadError, match=complaint) as caught:
        zenodo.download_checkpoint("tiny", tmp_path)
    assert "\n" not in str(caught.value) and files_in(tmp_path) == []


def test_without_a_network_the_error_has_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zenodo, "ZENODO_URL", "http://nowhere.invalid/records")
    with pytest.raises(zenodo.DownloadError, match="check the network") as caught:
        zenodo.download_checkpoint("tiny", tmp_path)
    assert "\n" not in str(caught.value) and "nowhere.invalid cannot be reached" in str(caught.value)


def test_an_unknown_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(zenodo.DownloadError, match="tiny, mini, small, base"):
        zenodo.download_checkpoint("huge", tmp_path)


# --- The command -----------------------------------------------------------------------------------------------------


def run_script(arguments: list[str]) -> Any:
    """The exit code of `ced convert` with these arguments."""
    with pytest.raises(SystemExit) as exited:
        app(["convert", *arguments], prog_name="ced")
    return exited.value.code


def test_command_converts_verifies_and_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = StandInHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    arguments = [str(ORIGINAL), str(tmp_path / "out"), "--push-to-hub", "user/ced-micro"]
    assert run_script(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("verified: ") and "13 classes" in printed.out
    assert printed.out.endswith("uploaded to https://huggingface.co/user/ced-micro\n")
    assert printed.err.startswith("note: assumed 3 attention heads") and printed.err.count("\n") == 1
    assert hub.uploaded == {"user/ced-micro": MODEL_FILES}
    assert 'from_pretrained("user/ced-micro")' in (tmp_path / "out/README.md").read_text()


def test_command_downloads_and_shows_the_checksum(
    server: type[StandInZenodo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zenodo, "cached_assets_path", lambda *names: tmp_path / "cache")
    assert run_script(["--download", "tiny", str(tmp_path / "out")]) == 0
    assert f"sha256 {zenodo.sha256_of(ORIGINAL)}\n" in capsys.readouterr().out
    assert AutoModel.from_pretrained(tmp_path / "out").config.embed_dim == 48


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["missing.pt", "OUT"], 1),
        ([str(ORIGINAL), str(REPOSITORY)], 1),
        ([str(ORIGINAL), "OUT", "--push-to-hub", "a/b/c"], 1),
        (["--download", "base", "OUT"], 1),
        ([], 2),
        (["OUT"], 2),
        (["source", "OUT", "--download", "tiny"], 2),
        (["--download", "huge", "OUT"], 2),
        (["source", "OUT", "--num-heads", "0"], 2),
        (["source", "OUT", "--unknown"], 2),
    ],
)
def test_command_fails_with_one_line(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zenodo, "ZENODO_URL", "http://nowhere.invalid/records")
    monkeypatch.setattr(zenodo, "cached_assets_path", lambda *names: tmp_path / "cache")
    assert run_script([str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("ced: ") and printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_script_equals_the_command_and_help_does_not_import_torch(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys
        import convert_checkpoint
        for arguments in (["--help"], ["out"]):
            try:
                convert_checkpoint.main(arguments)
            except SystemExit as exited:
                print(exited.code)
        print("torch" in sys.modules)
    """)
    printed = run_python(code, tmp_path, PYTHONPATH=str(REPOSITORY))
    assert printed.splitlines()[-3:] == ["0", "2", "False"] and "--push-to-hub" in printed
