# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A saved folder carries its own code: it loads, with the same numbers, where `ced_model` is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification, CedModel

AUTO_CLASSES: dict[type, str] = {
    CedConfig: "AutoConfig",
    CedFeatureExtractor: "AutoFeatureExtractor",
    CedModel: "AutoModel",
    CedForAudioClassification: "AutoModelForAudioClassification",
}
CODE_FILES = {"audioset.py", "configuration_ced.py", "feature_extraction_ced.py", "modeling_ced.py"}

# What every isolated process begins with: packages that cannot be found even if they are installed, and no network.
ISOLATION = """
import socket, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *args):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, *args)

    def __getattr__(self, name):
        return getattr(self.finder, name)

def refuse(*args, **kwargs):
    raise SystemExit("the network was touched")

sys.meta_path[:] = map(Without, sys.meta_path)
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


def run_python(script: str, folder: Path, blocked: tuple[str, ...] = ("ced_model",)) -> str:
    """Runs `script` in a process of its own in `folder`, with caches there; returns what it prints last."""
    home = folder / "hub_cache"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "HOME": str(folder)}
    process = subprocess.run(
        [sys.executable, "-I", "-c", f"BLOCKED = {blocked!r}\n{ISOLATION}\n{script}"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes registered as custom code, for one test."""
    for custom_class, auto_class in AUTO_CLASSES.items():
        monkeypatch.setattr(custom_class, "_auto_class", None)
        custom_class.register_for_auto_class(auto_class)  # type: ignore[attr-defined]


@pytest.fixture
def clips() -> dict[str, torch.Tensor]:
    """Three clips, the last longer than one chunk of `micro_hub`."""
    generator = torch.Generator().manual_seed(0)
    return {str(n): torch.randn(n, generator=generator) * 0.1 for n in (8000, 37920, 176000)}


LOAD_AND_RUN = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

folder = "model"
clips = load_file("clips.safetensors")
options = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **options)
extractor = AutoFeatureExtractor.from_pretrained(folder, **options)
outputs, lengths = {}, sorted(clips, key=int)
features = extractor([clips[length] for length in lengths], sampling_rate=16000)
outputs["input_values"], outputs["attention_mask"] = features["input_values"], features["attention_mask"]
with torch.inference_mode():
    for target_length in (None, 512, 2024):
        override = options if target_length is None else {**options, "target_length": target_length}
        encoder, report = AutoModel.from_pretrained(folder, **override, output_loading_info=True)
        assert not report["missing_keys"] and not report["mismatched_keys"], report
        encoded = encoder.eval()(**features)
        outputs[f"last_hidden_state {target_length}"] = encoded.last_hidden_state
        outputs[f"pooler_output {target_length}"] = encoded.pooler_output
        outputs[f"time_pos_embed {target_length}"] = encoder.time_pos_embed.data
        if HAS_HEAD:
            model = AutoModelForAudioClassification.from_pretrained(folder, **override).eval()
            outputs[f"logits {target_length}"] = model(**features).logits
save_file({name: value.contiguous() for name, value in outputs.items()}, "outputs.safetensors")
classes = [type(thing) for thing in (config, extractor, encoder)]
assert "ced_model" not in sys.modules
print(json.dumps({"modules": [c.__module__.split(".")[0] for c in classes], "label": config.id2label[12]}))
"""


@torch.inference_mode()
def compute_here(folder: Path, clips: dict[str, torch.Tensor], has_head: bool) -> dict[str, torch.Tensor]:
    """What the isolated process computes, with the installed classes."""
    features = CedFeatureExtractor.from_pretrained(folder)(
        [clips[length] for length in sorted(clips, key=int)], sampling_rate=16000
    )
    outputs = dict(features)
    for target_length in (None, 512, 2024):
        override: dict[str, Any] = {} if target_length is None else {"target_length": target_length}
        encoder = CedModel.from_pretrained(folder, **override).eval()
        encoded = encoder(**features)
        outputs[f"last_hidden_state {target_length}"] = encoded.last_hidden_state
        outputs[f"pooler_output {target_length}"] = encoded.pooler_output
        outputs[f"time_pos_embed {target_length}"] = encoder.time_pos_embed.data
        if has_head:
            model = CedForAudioClassification.from_pretrained(folder, **override).eval()
            outputs[f"logits {target_length}"] = model(**features).logits
    return outputs


def assert_same_numbers_in_isolation(folder: Path, clips: dict[str, torch.Tensor], has_head: bool) -> None:
    """Loads `folder / "model"` in a process without `ced_model`, and compares all that it computes."""
    save_file(clips, folder / "clips.safetensors")
    printed = json.loads(run_python(f"HAS_HEAD = {has_head}\n{LOAD_AND_RUN}", folder).splitlines()[-1])
    assert printed["modules"] == ["transformers_modules"] * 3
    assert printed["label"] == "class 12"
    there, here = load_file(folder / "outputs.safetensors"), compute_here(folder / "model", clips, has_head)
    assert there.keys() == here.keys()
    for name, expected in here.items():
        torch.testing.assert_close(there[name], expected, atol=1e-6, rtol=1e-6, msg=lambda text, name=name: name + text)
    assert here["time_pos_embed 512"].shape[-1] == 32 and here["time_pos_embed 2024"].shape[-1] == 126


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("model_class", [CedForAudioClassification, CedModel])
def test_a_saved_folder_loads_without_ced_model(
    model_class: type, tmp_path: Path, golden: Path, clips: dict[str, torch.Tensor]
) -> None:
    folder = tmp_path / "model"
    model: Any = model_class
    model.from_pretrained(golden / "micro_hub").save_pretrained(folder)
    CedFeatureExtractor.from_pretrained(golden / "micro_hub").save_pretrained(folder)
    assert {path.name for path in folder.glob("*.py")} == CODE_FILES
    assert_same_numbers_in_isolation(tmp_path, clips, has_head=model_class is CedForAudioClassification)


def test_an_unregistered_model_is_saved_without_code(tmp_path: Path, micro_model: CedForAudioClassification) -> None:
    micro_model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.usefixtures("registered")
def test_the_pipeline_runs_on_custom_code_and_saves_it_again(
    tmp_path: Path, golden: Path, clips: dict[str, torch.Tensor]
) -> None:
    CedForAudioClassification.from_pretrained(golden / "micro_hub").save_pretrained(tmp_path / "model")
    extractor = CedFeatureExtractor.from_pretrained(golden / "micro_hub")
    extractor.save_pretrained(tmp_path / "model")
    save_file(clips, tmp_path / "clips.safetensors")
    script = """
import json
from safetensors.torch import load_file
from transformers import pipeline
pipe = pipeline("audio-classification", model="model", trust_remote_code=True)
pipe.model.save_pretrained("again")
pipe.feature_extractor.save_pretrained("again")
print(json.dumps(pipe(load_file("clips.safetensors")["37920"].numpy(), top_k=3)))
"""
    tags = json.loads(run_python(script, tmp_path).splitlines()[-1])
    model = CedForAudioClassification.from_pretrained(golden / "micro_hub").eval()
    with torch.inference_mode():
        logits = model(**extractor(clips["37920"], sampling_rate=16000)).logits[0]
    best = logits.sigmoid().topk(3)
    assert [tag["label"] for tag in tags] == [f"class {index}" for index in best.indices.tolist()]
    assert [tag["score"] for tag in tags] == pytest.approx(best.values.tolist(), abs=1e-6)
    for name in CODE_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    for name in ("config.json", "preprocessor_config.json"):
        stored, again = (json.loads((tmp_path / folder / name).read_text()) for folder in ("model", "again"))
        assert again["auto_map"] == stored["auto_map"]


def test_the_custom_code_imports_nothing_that_transformers_users_lack() -> None:
    """Hub users have torch, NumPy and transformers; transformers refuses code that imports anything absent."""
    allowed = {"torch", "numpy", "transformers", "huggingface_hub"} | sys.stdlib_module_names
    for name in CODE_FILES:
        path = Path(__file__).parent.parent / "ced_model" / name
        assert set(get_imports(path)) <= allowed, name
        assert {Path(file).name for file in get_relative_import_files(path)} <= CODE_FILES, name


def test_importing_the_package_needs_no_torchaudio(tmp_path: Path, golden: Path) -> None:
    root = Path(__file__).parent.parent
    script = f"""
sys.path.insert(0, {str(root)!r})
import torch
import ced_model
extractor = ced_model.CedFeatureExtractor.from_pretrained({str(golden / "micro_hub")!r})
model = ced_model.CedForAudioClassification.from_pretrained({str(golden / "micro_hub")!r}).eval()
with torch.inference_mode():
    print(tuple(model(**extractor(torch.zeros(16000), sampling_rate=16000)).logits.shape))
assert "torchaudio" not in sys.modules
"""
    printed = run_python(script, tmp_path, blocked=("torchaudio",))
    assert printed.splitlines()[-1] == "(1, 13)"
