# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`--engine` and `--compute-type` of the commands."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from ced_model.cli import listen
from ced_model.cli.app import app
from ced_model.cli.errors import CliError


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ASSETS_CACHE", str(tmp_path_factory.mktemp("assets")))
        yield


def run(*arguments: Any) -> tuple[int, str, list[str]]:
    """Exit code, standard output and the lines of standard error of `ced ARGUMENTS…`."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr.splitlines()


def test_the_first_line_names_the_engine_and_the_compute_type(golden: Path, resources: Path) -> None:
    arguments = ["tag", resources / "misc_crow.flac", "--model", golden / "micro_hub", "--json", "--threads", "1"]
    tags = {}
    for engine, compute_type in (
        ("torch", "float32"),
        ("onnx", "float32"),
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
        ("onnx", "int8"),
        ("openvino", "int8"),
    ):
        code, printed, said = run(*arguments, "--engine", engine, "--compute-type", compute_type)
        assert code == 0 and said[0] == f"model: {golden / 'micro_hub'}, {engine} {compute_type} on cpu"
        tags[engine, compute_type] = {tag["label"]: tag["score"] for tag in json.loads(printed)[0]["tags"]}
    for engine in ("onnx", "openvino"):
        assert tags[engine, "float32"] == pytest.approx(tags["torch", "float32"], abs=1e-4)


def test_evaluate_and_plot_take_an_engine(golden: Path, resources: Path, tmp_path: Path) -> None:
    labels = json.loads((golden / "micro_hub" / "config.json").read_text())["id2label"]
    table = tmp_path / "labels.csv"
    table.write_text(f'path,label\nmisc_crow.flac,"{labels["0"]}"\nmisc_burp.flac,"{labels["1"]}"\n')
    options = ["--model", golden / "micro_hub", "--engine", "onnx"]
    code, printed, said = run("evaluate", table, "--audio-root", resources, "--json", *options, "--threads", "1")
    assert code == 0 and json.loads(printed)["num_clips"] == 2 and said[0].endswith(", onnx float32 on cpu")
    picture = tmp_path / "crow.png"
    code, printed, said = run("plot", resources / "misc_crow.flac", "-o", picture, *options)
    assert (code, printed) == (0, f"{picture}\n") and picture.read_bytes().startswith(b"\x89PNG")
    assert said[0].endswith(", onnx float32 on cpu")


def test_listen_has_the_option_engine(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    microphone = {"index": 0, "name": "Microphone", "max_input_channels": 1, "default_samplerate": 16000.0}
    sounddevice: Any = ModuleType("sounddevice")
    sounddevice.query_devices = lambda *_: microphone
    sounddevice.PortAudioError = OSError
    asked: dict[str, Any] = {}

    def load(name: str, **options: Any) -> None:
        asked.update(options)
        raise CliError("stop here")

    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice)
    monkeypatch.setattr(listen, "load_tagger", load)
    run("listen", "--model", golden / "micro_hub", "--engine", "openvino", "--compute-type", "int8")
    assert asked["engine"] == "openvino" and asked["compute_type"] == "int8"


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("tag", ["--engine", "tflite"], "--engine tflite: expected auto, onnx, openvino, torch"),
        (
            "tag",
            ["--engine", "onnx", "--device", "cuda"],
            "--device cuda: expected cpu for the engine onnx",
        ),
        (
            "tag",
            ["--engine", "torch", "--compute-type", "int8"],
            "--compute-type int8: expected float32 or bfloat",
        ),
        ("plot", ["--compute-type", "int4"], "--compute-type int4: expected float32, int8, bfloat16, float16"),
    ],
)
def test_unknown_engines_are_one_line_of_wrong_usage(
    command: str, options: list[str], message: str, golden: Path, clip: Path
) -> None:
    code, printed, said = run(command, clip, *options, "-m", golden / "micro_hub")
    assert (code, printed, len(said)) == (2, "", 1) and said[0].startswith(f"ced: {message}")


def test_a_missing_engine_is_one_line_with_what_to_install(
    golden: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ced_model.packages.missing", lambda names: [name for name in names if name == "openvino"])
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    code, printed, said = run("tag", clip, "--model", golden / "micro_hub", "--engine", "openvino")
    assert (code, printed) == (1, "")
    assert said == ["ced: the engine openvino requires openvino: pip install openvino"]
