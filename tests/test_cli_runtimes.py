# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`--engine` and `--compute-type` of the commands, as a user runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from ced_model.cli.formats import Format
from cli_process import start
from typer.testing import CliRunner

from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification
from ced_model.cli import listen
from ced_model.cli.app import app
from ced_model.cli.errors import CliError
from ced_model.cli.tag import TagOptions, lasting_options
from ced_model.journal import Journal

REPOSITORY = Path(__file__).parent.parent
NOTE = "exporting to onnx, once: the export is kept for later runs ..."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier of one block."""
    folder = tmp_path_factory.mktemp("models") / "small"
    torch.manual_seed(0)
    config = CedConfig(embed_dim=48, depth=1, num_heads=3, id2label={0: "hum", 1: "alarm", 2: "rain"})
    CedForAudioClassification(config).save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the cache; in it an export is made by the first test that needs it."""
    yield tmp_path_factory.mktemp("assets")


def run(arguments: list[Any], folder: Path, kept: Path) -> tuple[int | None, str, list[str]]:
    """Exit code, standard output and the lines of standard error of `ced ARGUMENTS…`."""
    for name in ("stdout", "stderr"):
        (folder / name).write_bytes(b"")
    environment = {"HF_ASSETS_CACHE": str(kept)}
    process = start(arguments, stdout=folder / "stdout", stderr=folder / "stderr", environment=environment)
    process.join()
    return process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text().splitlines()


def test_the_first_line_says_what_ran_and_the_second_that_the_model_is_exported_once(
    model: Path, kept: Path, resources: Path, tmp_path: Path
) -> None:
    arguments = ["tag", resources / "misc_crow.flac", "--model", model, "--json", "--threads", "1"]
    code, by_torch, said = run(arguments, tmp_path, kept)
    assert (code, said) == (0, [f"model: {model} on cpu"])
    code, by_onnx, said = run([*arguments, "--engine", "onnx"], tmp_path, kept)
    assert (code, said) in [(0, [f"model: {model} on cpu, onnx", NOTE]), (0, [f"model: {model} on cpu, onnx"])]
    code, again, said = run([*arguments, "--engine", "onnx"], tmp_path, kept)
    assert (code, said, again) == (0, [f"model: {model} on cpu, onnx"], by_onnx)
    for one, other in zip(json.loads(by_onnx)[0]["tags"], json.loads(by_torch)[0]["tags"], strict=True):
        assert one["label"] == other["label"] and abs(one["score"] - other["score"]) < 1e-4


def test_int8_is_said_to_be(model: Path, kept: Path, resources: Path, tmp_path: Path) -> None:
    code, printed, said = run(
        ["tag", resources / "misc_crow.flac", "-m", model, "--engine", "onnx", "--compute-type", "int8", "--json"],
        tmp_path,
        kept,
    )
    assert code == 0 and len(json.loads(printed)[0]["tags"]) == 3
    assert said == [f"model: {model} on cpu, onnx int8", NOTE.replace("onnx", "onnx int8")]


def test_evaluate_and_plot_take_a_runtime(model: Path, kept: Path, resources: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\nmisc_crow.flac,hum\nmisc_burp.flac,alarm\n")
    options = ["--model", model, "--engine", "onnx"]
    code, printed, said = run(
        ["evaluate", table, "--audio-root", resources, "--json", *options, "--threads", "1"], tmp_path, kept
    )
    assert code == 0 and json.loads(printed)["num_clips"] == 2
    assert said[0] == f"model: {model} on cpu, onnx"
    picture = tmp_path / "crow.png"
    code, printed, said = run(["plot", resources / "misc_crow.flac", "-o", picture, *options], tmp_path, kept)
    assert (code, printed) == (0, f"{picture}\n") and picture.read_bytes().startswith(b"\x89PNG")
    assert said[0] == f"model: {model} on cpu, onnx"


def test_listen_takes_a_runtime(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    microphone = {"index": 0, "name": "Microphone", "max_input_channels": 1, "default_samplerate": 16000.0}
    sounddevice: Any = ModuleType("sounddevice")
    sounddevice.query_devices = lambda *_: microphone
    sounddevice.PortAudioError = OSError
    asked: dict[str, Any] = {}

    def load(name: str, **options: Any) -> None:
        asked.update(options)
        raise CliError("that is all to be seen here")

    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice)
    monkeypatch.setattr(listen, "load_tagger", load)
    CliRunner().invoke(app, ["listen", "--model", str(model), "--engine", "openvino", "--compute-type", "int8"])
    assert asked == {"runtime": "openvino", "quantize": "int8"}


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ({}, {"runtime": "onnx"}, 'another --engine: none then, "onnx" now'),
        ({"runtime": "onnx"}, {"runtime": "torch"}, 'another --engine: "onnx" then, none now'),
        ({"runtime": "onnx"}, {"runtime": "onnx", "quantize": "int8"}, 'another --compute-type: none then, "int8" now'),
        ({"runtime": "torch"}, {}, None),
    ],
)
def test_an_interrupted_run_does_not_go_on_with_another_runtime(
    then: dict[str, str], now: dict[str, str], message: str | None, tmp_path: Path
) -> None:
    output = str(tmp_path / "tags.csv")
    journal = Journal(output, lasting_options(TagOptions(**then), Format.CSV))  # type: ignore[arg-type]
    journal.begin("12345678")
    journal.append({"file": "crow.wav", "duration_s": 1.0, "tags": []})
    journal.close()
    journal = Journal(output, lasting_options(TagOptions(**now), Format.CSV))  # type: ignore[arg-type]
    if message is None:
        journal.load()
        assert "crow.wav" in journal
    else:
        with pytest.raises(CliError, match=message):
            journal.load()
    journal.close()


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("tag", ["--engine", "tflite"], "unknown runtime 'tflite': choose one of torch, onnx, openvino"),
        (
            "tag",
            ["--engine", "onnx", "--device", "cuda"],
            "the runtime onnx computes on the CPU, not on 'cuda': leave",
        ),
        ("evaluate", ["--compute-type", "int8"], "the runtime torch has no int8: choose the runtime onnx or openvino"),
        ("plot", ["--engine", "onnx", "--compute-type", "fp16"], "unknown quantization 'fp16': choose int8, or none"),
        ("listen", ["--engine", "sherpa-onnx"], "unknown runtime 'sherpa-onnx': choose one of torch, onnx, openvino"),
    ],
)
def test_what_there_is_not_is_refused_without_torch(
    command: str, options: list[str], message: str, model: Path, clip: Path
) -> None:
    done = run_without(
        "torch", "transformers", arguments=[command, *[clip] * (command != "listen"), *options, "-m", model]
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ced: {message}") and done.stderr.count("\n") == 1


def test_a_missing_runtime_names_its_extra_without_torch(model: Path, clip: Path) -> None:
    done = run_without(
        "torch", "onnxruntime", arguments=["tag", clip, "--model", model, "--engine", "onnx", "--compute-type", "int8"]
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'ced: onnx needs onnxruntime: pip install "ced_model[onnx]"\n'


def run_without(*packages: str, arguments: list[Any]) -> subprocess.CompletedProcess[str]:
    """Runs `ced ARGUMENTS…` where packages are not installed."""
    script = (
        "import sys, importlib.util as util; find = util.find_spec; missing = sys.argv.pop(1).split(',')\n"
        "util.find_spec = lambda name, *rest: None if name in missing else find(name, *rest)\n"
        "for name in missing: sys.modules[name] = None\n"
        "from ced_model.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", script, ",".join(packages), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
