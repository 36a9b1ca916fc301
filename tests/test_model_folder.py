# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""An invalid model folder is refused before any work, in one line with the field or tensor."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from ced_model import AudioTagger, CedConfig, CedFeatureExtractor, CedForAudioClassification, bundled_folder
from ced_model.hub import ModelNotFoundError, locate_model
from ced_model.model_folder import ModelFolderError, check_model_folder
from ced_model.model_settings import DEFAULTS, FRONT_END_DEFAULTS, check_model, expected_shapes
from ced_model.pretrained import load_classifier

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path, golden: Path) -> Path:
    return Path(shutil.copytree(golden / "micro_hub", tmp_path / "model"))


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        check_model_folder(folder)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 400
    return message


CONFIG_FIELDS = [
    ({"depth": 10**9}, "config.json: `depth` must be a whole number from 1 to 128, got 1000000000."),
    ({"depth": 10**5}, "`depth` must be a whole number from 1 to 128, got 100000."),
    ({"num_hidden_layers": 10**5}, "`num_hidden_layers` must be a whole number from 1 to 128, got 100000."),
    ({"depth": True}, "`depth` must be a whole number from 1 to 128, got True."),
    ({"depth": "3"}, "`depth` must be a whole number from 1 to 128, got '3'."),
    ({"depth": None}, "`depth` must be a whole number from 1 to 128, got None."),
    ({"depth": 10**4000}, "`depth` must be a whole number from 1 to 128, got 1000"),
    ({"depth": [[3]]}, "`depth` must be a whole number from 1 to 128, got [[3]]."),
    ({"embed_dim": -48}, "`embed_dim` must be a whole number from 1 to 8,192, got -48."),
    ({"embed_dim": 8192, "num_heads": 1, "depth": 128}, "`depth` (128) blocks of `embed_dim` 8192 have 10"),
    ({"mlp_ratio": float("nan")}, "`mlp_ratio` must be a number above 0, at most 32, got nan."),
    ({"mlp_ratio": float("inf")}, "`mlp_ratio` must be a number above 0, at most 32, got inf."),
    ({"num_heads": 5}, "`embed_dim` (48) is not a multiple"),
    ({"target_length": 10**9}, "`target_length` must be a whole number from 1 to 100,000"),
    ({"outputdim": 10**9, "id2label": None}, "`outputdim` must be a whole number from 1 to 100,000"),
    ({"outputdim": 12}, "`outputdim=12` but `id2label` names 13 classes"),
    ({"id2label": {"0": 1, "1": 2}, "outputdim": 2}, "`id2label` must give each class a name, but class 0 has 1."),
    (
        {"id2label": {"0": "dog", "1": " "}, "outputdim": 2},
        "`id2label` must give each class a name, but class 1 has ' '.",
    ),
    ({"id2label": {"0": "dog", "1": "a\0b"}, "outputdim": 2}, "a NUL character in the name of class 1"),
    ({"id2label": {"0": "\x1b[31m", "2": "cat"}, "outputdim": 2}, "names the classes 0 to 1"),
    ({"id2label": "dog"}, "`id2label` must be a table"),
    ({"pooling": "median"}, "`pooling` must be one of 'mean', 'logit', 'dm', 'token', got 'median'."),
    ({"pooling": ["mean"]}, "`pooling` must be one of"),
    ({"problem_type": 3}, "`problem_type` must be one of"),
    ({"qkv_bias": 1}, "`qkv_bias` must be true or false, got 1."),
    ({"model_type": "\x1b[31mbert"}, "describes a '\\x1b[31mbert' model, not CED"),
    ({"model_type": None}, 'not CED: "model_type" must be "ced"'),
]
PREPROCESSOR_FIELDS = [
    (
        {"sampling_rate": 1},
        "preprocessor_config.json: `sampling_rate` must be a whole number from 1,000 to 384,000, got 1.",
    ),
    ({"sampling_rate": 16000.5}, "`sampling_rate` must be a whole number"),
    ({"n_fft": 8}, "`win_size` (512 samples) does not fit into `n_fft` (8 samples)"),
    (
        {"n_fft": 64, "win_size": 64, "hop_size": 32},
        "`feature_size` (64 mel bins) must not exceed the 33 frequencies of `n_fft`",
    ),
    ({"n_fft": 10**12}, "`n_fft` must be a whole number from 2 to 65,536"),
    ({"n_fft": 1024}, "`n_fft` is 1024 in preprocessor_config.json, but 512 in config.json."),
    ({"hop_size": 320}, "`hop_size` is 320 in preprocessor_config.json, but 160 in config.json."),
    ({"hop_size": 600}, "`hop_size` (600 samples) does not fit into `n_fft` (512 samples)"),
    ({"hop_size": "160"}, "`hop_size` must be a whole number"),
    (
        {"feature_size": 128},
        "`feature_size` is 128 mel bins in preprocessor_config.json, but config.json has `n_mels` 64.",
    ),
    ({"f_max": 7000}, "`f_max` is 7000 in preprocessor_config.json, but 8000 in config.json."),
    ({"f_max": 9000}, "`f_max` (9000 Hz) is more than half the `sampling_rate` (16000 Hz)"),
    ({"f_min": 9000}, "`f_min` (9000 Hz) must be below `f_max` (8000 Hz)"),
    ({"center": False}, "`center` is False in preprocessor_config.json, but True in config.json."),
    ({"padding_value": float("nan")}, "`padding_value` must be a number"),
    ({"padding_side": "left"}, "`padding_side='left'` must be"),
]


@pytest.mark.parametrize(("fields", "reason"), CONFIG_FIELDS, ids=lambda value: str(value)[:60])
def test_invalid_fields_of_the_configuration_are_named(fields: dict[str, Any], reason: str, folder: Path) -> None:
    edit(folder / "config.json", **fields)
    assert reason in refusal(folder)


@pytest.mark.parametrize(("fields", "reason"), PREPROCESSOR_FIELDS, ids=lambda value: str(value)[:60])
def test_invalid_fields_of_the_front_end_are_named(fields: dict[str, Any], reason: str, folder: Path) -> None:
    edit(folder / "preprocessor_config.json", **fields)
    assert reason in refusal(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "is nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested too deeply"),
        (b"[]", "must contain an object {…}, got a list"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b'{"depth": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b'{"depth": 3, "depth": 4}', "'depth' appears twice"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_file_that_is_not_a_json_object_is_named(name: str, content: bytes, reason: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert message.startswith(f"{name} ") and reason in message


def change_tensors(folder: Path, change: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["encoder.blocks.1.mlp.fc1.weight"]
    elif change == "unknown":
        tensors["encoder.blocks.3\x1b[31m.norm1.weight"] = torch.zeros(48)
    elif change == "of another shape":
        tensors["outputlayer.1.bias"] = torch.zeros(12)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("missing", "1 missing: encoder.blocks.1.mlp.fc1.weight."),
        ("unknown", "1 unknown: encoder.blocks.3\\x1b[31m.norm1.weight."),
        ("of another shape", "1 of another shape: outputlayer.1.bias (12) instead of (13)."),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_named(change: str, reason: str, folder: Path) -> None:
    change_tensors(folder, change)
    assert f"the weights do not fit config.json: {reason}" in refusal(folder)


def test_damaged_and_missing_files_of_weights_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:1000], b"\xff" * 1000):
        weights.write_bytes(content)
        assert refusal(folder).startswith("model.safetensors is damaged: ")
    weights.unlink()
    index = folder / "model.safetensors.index.json"
    for places, reason in (
        ({"a": "model-1.safetensors"}, "model-1.safetensors is missing"),
        ({"a": "../model.safetensors"}, "has no `weight_map` of file names"),
        (3, "has no `weight_map` of file names"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        assert reason in refusal(folder)


def test_every_folder_that_can_be_loaded_passes(folder: Path, tmp_path: Path) -> None:
    check_model_folder(bundled_folder())
    check_model_folder(folder)
    model = CedForAudioClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    model.encoder.save_pretrained(tmp_path / "encoder")
    token = CedConfig(embed_dim=16, num_heads=1, depth=1, pooling="token", qkv_bias=False, mlp_ratio=1.5)
    CedForAudioClassification(token).save_pretrained(tmp_path / "token")
    for name in ("shards", "encoder", "token"):
        check_model_folder(tmp_path / name)
    edit(folder / "config.json", target_length=2024)  # positions are resized
    check_model_folder(folder)


@pytest.mark.parametrize(
    "fields", [{}, {"name": "ced-mini", "pooling": "token"}, {"qkv_bias": False, "mlp_ratio": 2.5}]
)
def test_the_expected_shapes_are_those_of_the_model(fields: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = CedForAudioClassification(CedConfig(**fields))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert expected_shapes(check_model(fields)) == shapes


def test_the_defaults_are_those_of_the_classes() -> None:
    config, extractor = CedConfig().to_dict(), CedFeatureExtractor().to_dict()
    assert {field: config[field] for field in DEFAULTS} == DEFAULTS
    assert {field: extractor[field] for field in FRONT_END_DEFAULTS} == FRONT_END_DEFAULTS


def test_all_entry_points_refuse_an_invalid_folder_with_the_same_reason(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", sampling_rate=1)
    reason = "`sampling_rate` must be a whole number from 1,000 to 384,000, got 1."
    for load in (AudioTagger.from_pretrained, load_classifier):
        with pytest.raises(ValueError) as caught:
            load(folder)
        assert reason in str(caught.value)


def test_a_folder_is_checked_without_torch() -> None:
    script = f"""
import sys
from ced_model.model_folder import open_model
open_model({bundled_folder()!r})
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)


# Hub ids


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No connection to the Hub, and an empty cache; returns a list of attempted look-ups."""
    asked: list[str] = []
    repo_info = huggingface_hub.HfApi.repo_info

    def count(self: Any, repo_id: str, **kwargs: Any) -> Any:
        asked.append(repo_id)
        return repo_info(self, repo_id, **kwargs)

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", count)
    return asked


@pytest.mark.parametrize(
    ("name", "meant"), [("ced-tiny", "mispeech/ced-tiny"), ("CED-Base", "mispeech/ced-base"), ("nano", "ced-nano")]
)
def test_a_part_of_a_known_name_suggests_that_name(unreachable: list[str], name: str, meant: str) -> None:
    with pytest.raises(OSError, match=rf"did you mean {meant}\?"):
        AudioTagger(name)


def test_a_mistyped_hub_id_offline_is_one_line_after_one_request(unreachable: list[str]) -> None:
    for load in (AudioTagger.from_pretrained, load_classifier):
        unreachable.clear()
        with pytest.raises(OSError) as caught:
            load("mispeech/ced-tinyy")
        assert unreachable == ["mispeech/ced-tinyy"]
        assert str(caught.value).startswith(
            "mispeech/ced-tinyy is neither a local folder nor in the cache, and the Hugging Face Hub cannot be reached:"
            " check the name (did you mean mispeech/ced-tiny?), or give a local folder."
        )
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./nowhere", "There is no folder './nowhere'"),
        ("a/b/c", "There is no folder 'a/b/c'"),
        ("no such model", "not a Hub id such as user/model"),
        ("user/\x1b[31mred", "\\x1b[31mred"),
    ],
)
def test_names_that_are_neither_folders_nor_hub_ids_are_refused_without_a_request(name: str, reason: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        locate_model(name)
    assert reason in str(caught.value) and str(caught.value).isprintable()


def test_a_cached_repository_is_used_if_the_hub_cannot_be_reached(
    folder: Path, tmp_path: Path, unreachable: list[str]
) -> None:
    repository = tmp_path / "hub" / "models--user--micro"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)

    tagger = AudioTagger.from_pretrained("user/micro")
    assert unreachable == ["user/micro"]
    assert tagger.labels[0] == "class 0" and tagger.name == "user/micro"


def test_the_error_mentions_offline_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"the Hugging Face Hub is not used \(offline mode\)") as caught:
        locate_model("user/micro", cache_dir=tmp_path)
    assert isinstance(caught.value.__cause__, LocalEntryNotFoundError)
