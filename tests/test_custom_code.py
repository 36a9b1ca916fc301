# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A saved folder includes its code: it can be loaded, with the same outputs, without `ced_model`."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import peft
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments, pipeline
from transformers.dynamic_module_utils import (
    get_class_from_dynamic_module,
    get_imports,
    get_relative_import_files,
)

from ced_model import (
    AudioTagger,
    CedConfig,
    CedFeatureExtractor,
    CedForAudioClassification,
    CedForAudioFrameClassification,
    CedModel,
    custom_code,
)

CODE_FILES = set(custom_code.CODE_FILES)

# The start of every isolated process: some packages cannot be imported, and there is no network access.
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
    """Runs `script` in a separate process in `folder`, with caches there; returns its last line of output."""
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
def clips() -> dict[str, torch.Tensor]:
    """Three clips, the last longer than one chunk of `micro_hub`."""
    generator = torch.Generator().manual_seed(0)
    return {str(n): torch.randn(n, generator=generator) * 0.1 for n in (8000, 37920, 176000)}


LOAD_AND_RUN = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoModelForAudioFrameClassification,
    AutoProcessor,
    pipeline,
)

clips = load_file("clips.safetensors")
options = {"trust_remote_code": True}
outputs = {}
for folder in ("classifier", "encoder"):
    config = AutoConfig.from_pretrained(folder, **options)
    extractor = AutoFeatureExtractor.from_pretrained(folder, **options)
    features = extractor([clips[length] for length in sorted(clips, key=int)], sampling_rate=16000)
    encoder, report = AutoModel.from_pretrained(folder, **options, target_length=2024, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    assert {type(x).__module__.split(".")[0] for x in (config, extractor, encoder)} == {"transformers_modules"}
    assert config.id2label[12] == "class 12"
    with torch.inference_mode():
        outputs |= {f"{folder} {name}": value for name, value in features.items()}
        outputs[f"{folder} tokens"] = encoder.eval()(**features).last_hidden_state
        if folder == "classifier":
            model = AutoModelForAudioClassification.from_pretrained(folder, **options).eval()
            outputs["logits"] = model(**features).logits
            model = AutoModelForAudioFrameClassification.from_pretrained(folder, **options).eval()
            assert "transformers_modules" in type(model).__module__
            outputs["frame logits"] = model(**features).logits
save_file({name: value.contiguous() for name, value in outputs.items()}, "outputs.safetensors")
pipe = pipeline("audio-classification", model="classifier", **options)
pipe.model.save_pretrained("again")
pipe.feature_extractor.save_pretrained("again")
pipe.save_pretrained("piped")
assert type(pipe).__name__ == "CedAudioClassificationPipeline"
assert type(AutoProcessor.from_pretrained("classifier", **options)).__name__ == "CedFeatureExtractor"
row = {"bytes": open("crow.flac", "rb").read(), "path": None}
recordings = ["loop.flac", row, {"raw": clips["8000"], "sampling_rate": 8000}]
many = pipe(recordings, batch_size=8, top_k=13)
assert many == [pipe(recording, top_k=13) for recording in recordings]
events = pipe("loop.flac", events=True, threshold=0.6)
error = pipe([b"\\0\\0\\0 ftypM4A " * 9], on_error="yield")[0]["error"]
assert error.endswith("for m4a, mp4, webm and more: pip install av"), error
assert not {"ced_model", "torchaudio", "torchcodec", "av"} & set(sys.modules)
print(json.dumps([pipe(clips["37920"].numpy(), top_k=3), many, events]))
"""


@torch.inference_mode()
def test_saved_folders_load_and_save_again_without_ced_model(
    tmp_path: Path, golden: Path, resources: Path, clips: dict[str, torch.Tensor]
) -> None:
    """Auto classes and pipeline give the same outputs; audio files only require soundfile and soxr."""
    extractor = CedFeatureExtractor.from_pretrained(golden / "micro_hub")
    model = CedForAudioClassification.from_pretrained(golden / "micro_hub").eval()
    encoder: Any = CedModel.from_pretrained(golden / "micro_hub", target_length=2024).eval()
    for folder, saved in (("classifier", model), ("encoder", CedModel.from_pretrained(golden / "micro_hub"))):
        saved.save_pretrained(tmp_path / folder)
        extractor.save_pretrained(tmp_path / folder)
        code = CODE_FILES if folder == "classifier" else set(custom_code.MODEL_CODE)
        assert {path.name for path in (tmp_path / folder).glob("*.py")} == code
    save_file(clips, tmp_path / "clips.safetensors")

    for name, recording in (("loop", "loop_tabla"), ("crow", "misc_crow")):
        shutil.copy(resources / f"{recording}.flac", tmp_path / f"{name}.flac")

    blocked = ("ced_model", "torchaudio", "torchcodec", "av", "wrapt", "lazy_loader", "typer")
    tags, many, events = json.loads(run_python(LOAD_AND_RUN, tmp_path, blocked).splitlines()[-1])

    features = extractor([clips[length] for length in sorted(clips, key=int)], sampling_rate=16000)
    tokens, logits = encoder(**features).last_hidden_state, model(**features).logits
    frames = CedForAudioFrameClassification.from_pretrained(golden / "micro_hub").eval()
    here = {"logits": logits, "frame logits": frames(**features).logits}
    for folder in ("classifier", "encoder"):
        here |= {f"{folder} {name}": value for name, value in {**features, "tokens": tokens}.items()}
    there = load_file(tmp_path / "outputs.safetensors")
    assert there.keys() == here.keys()
    for name, expected in here.items():
        torch.testing.assert_close(there[name], expected, atol=1e-6, rtol=1e-6, msg=lambda text, name=name: name + text)
    best = model(**extractor(clips["37920"], sampling_rate=16000)).logits[0].sigmoid().topk(3)
    assert [tag["label"] for tag in tags] == [f"class {index}" for index in best.indices.tolist()]
    assert [tag["score"] for tag in tags] == pytest.approx(best.values.tolist(), abs=1e-6)
    tagger = AudioTagger(golden / "micro_hub")
    raw = {"raw": clips["8000"], "sampling_rate": 8000}
    for found, source in zip(many, (tmp_path / "loop.flac", tmp_path / "crow.flac", raw), strict=True):
        expected = tagger(source, top_k=13)
        assert {tag["label"]: tag["score"] for tag in found} == pytest.approx(
            {tag[0]: tag[1] for tag in expected}, abs=1e-5
        )
    expected = tagger.events(tmp_path / "loop.flac", 0.6)
    assert [(*tag["timestamp"], tag["label"]) for tag in events] == [event[:3] for event in expected] and events

    for folder in ("again", "piped"):
        for name in CODE_FILES:
            assert (tmp_path / folder / name).read_bytes() == (tmp_path / "classifier" / name).read_bytes()
        for name, fields in (
            ("config.json", ("auto_map", "custom_pipelines")),
            ("preprocessor_config.json", ("auto_map",)),
        ):
            stored, again = (json.loads((tmp_path / place / name).read_text()) for place in ("classifier", folder))
            assert [again[field] for field in fields] == [stored[field] for field in fields]
    # An encoder has no classes: without a task, `pipeline` would use the only one in the configuration.
    assert "custom_pipelines" not in json.loads((tmp_path / "encoder" / "config.json").read_text())


def files_named_by_auto_maps(folder: Path) -> set[str]:
    """The code files that the JSON files of a folder refer to."""
    stored = [json.loads(path.read_text()) for path in folder.glob("*config.json")]
    places = [place for fields in stored for place in fields.get("auto_map", {}).values()]
    places += [task["impl"] for fields in stored for task in fields.get("custom_pipelines", {}).values()]
    return {f"{place.rpartition('.')[0]}.py" for place in places}


def assert_complete(folder: Path) -> None:
    named, present = files_named_by_auto_maps(folder), {path.name for path in folder.glob("*.py")}
    assert named and named <= present
    for name in present:
        assert {Path(file).name for file in get_relative_import_files(folder / name)} <= present


@pytest.fixture
def hub_copy(tmp_path: Path, golden: Path) -> Path:
    """A folder whose files refer to the code of another repository, like a Hub repository in the cache."""
    folder = Path(shutil.copytree(golden / "micro_hub", tmp_path / "hub_copy"))
    auto_map = {name: f"someone/else--{place}" for name, place in custom_code.AUTO_MAP.items()}
    for name, places in (("config.json", auto_map), ("preprocessor_config.json", {"AutoFeatureExtractor": "old.Old"})):
        stored = json.loads((folder / name).read_text()) | {"auto_map": places}
        (folder / name).write_text(json.dumps(stored))
    return folder


@pytest.mark.parametrize("saved", [CedConfig, CedFeatureExtractor, CedModel, CedForAudioClassification])
def test_saved_folders_are_complete(saved: Any, hub_copy: Path, tmp_path: Path) -> None:
    saved.from_pretrained(hub_copy).save_pretrained(tmp_path / "saved")
    assert_complete(tmp_path / "saved")


def test_a_model_with_merged_adapters_and_a_checkpoint_of_trainer_are_complete(hub_copy: Path, tmp_path: Path) -> None:
    model = CedForAudioClassification.from_pretrained(hub_copy)
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"]))
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert files_named_by_auto_maps(tmp_path / "merged") == {
        "configuration_ced.py",
        "modeling_ced.py",
        "pipeline_ced.py",
    }
    assert_complete(tmp_path / "merged")

    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[])
    extractor = CedFeatureExtractor.from_pretrained(hub_copy)
    Trainer(model, arguments, processing_class=extractor).save_model(str(tmp_path / "checkpoint"))
    assert CODE_FILES == {path.name for path in (tmp_path / "checkpoint").glob("*.py")}
    assert_complete(tmp_path / "checkpoint")


@pytest.mark.parametrize("method", ["push_to_hub", "save_pretrained"])
@pytest.mark.parametrize("pushed", [CedConfig, CedFeatureExtractor, CedForAudioClassification, "pipeline"])
def test_folders_pushed_to_the_hub_are_complete(
    pushed: Any, method: str, hub_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: set[str] = set()

    def create_commit(self: Any, repo_id: str, operations: Any, **kwargs: Any) -> None:
        uploaded.update(operation.path_in_repo for operation in operations)

    client = huggingface_hub.HfApi
    monkeypatch.setattr(client, "create_repo", lambda self, repo_id, **kwargs: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(client, "create_commit", create_commit)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *args, **kwargs: ModelCard("hello"))
    if pushed == "pipeline":
        thing: Any = pipeline("audio-classification", model=str(hub_copy))
    else:
        thing = pushed.from_pretrained(hub_copy)
    if method == "push_to_hub":
        thing.push_to_hub("user/model")
    else:
        thing.save_pretrained(str(tmp_path / "pushed"), push_to_hub=True, repo_id="user/model")
    auto_map = getattr(getattr(thing, "model", thing), "config", thing).auto_map
    named = {f"{place.rpartition('.')[0]}.py" for place in auto_map.values()}
    assert named and uploaded >= named | {"custom_code.py", "model_settings.py"}
    if pushed is not CedFeatureExtractor:
        assert uploaded >= CODE_FILES - {"feature_extraction_ced.py", "log_mel.py", "modeling_ced.py"}
    if pushed == "pipeline":
        assert uploaded >= {"config.json", "preprocessor_config.json", "model.safetensors", *CODE_FILES}


def test_the_code_of_a_subclass_by_another_author_is_saved_only_if_it_is_registered(
    tmp_path: Path, golden: Path
) -> None:
    class Mine(CedForAudioClassification):
        pass

    Mine.from_pretrained(golden / "micro_hub").save_pretrained(tmp_path)
    assert "modeling_ced.py" not in os.listdir(tmp_path) and Path(__file__).name not in os.listdir(tmp_path)
    assert_complete(tmp_path)


def test_an_older_transformers_is_refused_before_other_errors(
    tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the package, and by each file of the custom code."""
    CedForAudioClassification.from_pretrained(golden / "micro_hub").save_pretrained(tmp_path)
    CedFeatureExtractor.from_pretrained(golden / "micro_hub").save_pretrained(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "5.22.2")
    expected = (
        r'^CED requires transformers 5\.23 or newer, found 5\.22\.2: pip install --upgrade "transformers>=5\.23"$'
    )
    for name in [module for module in sys.modules if module.partition(".")[0] == "ced_model"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=expected):
        importlib.import_module("ced_model")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    places = [*custom_code.AUTO_MAP.values(), *custom_code.EXTRACTOR_AUTO_MAP.values()]
    for place in [*places, custom_code.CUSTOM_PIPELINES["audio-classification"]["impl"]]:
        with pytest.raises(ImportError, match=expected):
            get_class_from_dynamic_module(place, tmp_path)


@pytest.mark.parametrize(
    ("version", "is_enough"), [("5.23.0", True), ("5.24.0.dev0", True), ("6.0", True), ("5.9", False)]
)
def test_the_floor_is_a_version_number(version: str, is_enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    code = Path(custom_code.__file__).read_text()
    with nullcontext() if is_enough else pytest.raises(ImportError):
        exec(compile(code, "custom_code.py", "exec"), {})


def test_the_floor_is_that_of_the_package_metadata() -> None:
    requirements = (Path(__file__).parent.parent / "requirements.txt").read_text().splitlines()
    assert f"transformers>={custom_code.MIN_TRANSFORMERS}" in requirements


def test_the_custom_code_imports_nothing_that_transformers_users_lack() -> None:
    """
    Hub users have torch, NumPy and transformers, which refuses code that imports other packages that are missing. The
    pipeline, which decodes audio, also requires soundfile and soxr; the model is loaded without them.
    """
    allowed = {"torch", "numpy", "transformers", "huggingface_hub"} | sys.stdlib_module_names
    for name in CODE_FILES:
        path = Path(__file__).parent.parent / "ced_model" / name
        of_pipeline = name in custom_code.PIPELINE_CODE
        assert set(get_imports(path)) <= allowed | ({"soundfile", "soxr"} if of_pipeline else set()), name
        needed = {Path(file).name for file in get_relative_import_files(path)}
        assert needed <= (CODE_FILES if of_pipeline else set(custom_code.MODEL_CODE)), name
    pipeline_file = Path(custom_code.__file__).with_name("pipeline_ced.py")
    assert {"soundfile", "soxr"} <= set(get_imports(pipeline_file))  # the imports of this file are checked
    needed = {Path(file).name for file in get_relative_import_files(pipeline_file)} | {pipeline_file.name}
    assert needed >= set(custom_code.PIPELINE_CODE)  # all saved files are used
