# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The `ced export` command, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_process import start

REPOSITORY = Path(__file__).parent.parent


def run(arguments: list[str | Path], folder: Path) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `ced export ARGUMENTS…`."""
    for name in ("stdout", "stderr"):
        (folder / name).write_bytes(b"")
    process = start(["export", *arguments], stdout=folder / "stdout", stderr=folder / "stderr")
    process.join()
    return process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text()


def test_an_export_is_verified_and_its_folder_printed(golden: Path, resources: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    arguments: list[str | Path] = ["-m", golden / "micro_hub", "-f", "torch", "-o", output, "--input", "mel"]
    code, printed, said = run([*arguments, "--audio", resources / "misc_crow.flac"], tmp_path)
    assert (code, printed) == (0, f"{output}\n"), said
    lines = said.splitlines()
    assert lines[0].startswith("model: ") and "1 of  0.15 s" in said and "3 of 10.12 s" in said
    assert lines[-1].startswith("model.pt2: ") and lines[-1].endswith("README.md says how to run it")
    assert max(map(len, lines)) < 200 and not any("Warning" in line or "[transformers]" in line for line in lines)
    assert json.loads((output / "metadata.json").read_text(encoding="utf-8"))["model"] == "micro_hub"

    code, printed, said = run(arguments, tmp_path)
    assert (code, printed) == (2, "")
    assert said == f"ced: --output {output}: has an export already; --overwrite replaces it; or give a new folder\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "choose a format with --format: onnx, openvino, torch, executorch, sherpa-onnx"),
        (["-f", "onnx"], "name the folder to make with --output"),
        (
            ["-f", "tflite", "-o", "new"],
            "unknown format 'tflite': choose one of onnx, openvino, torch, executorch, sherpa-",
        ),
        (["-f", "sherpa-onnx", "-o", "new", "--input", "waveform"], "sherpa-onnx takes no input 'waveform', only mel"),
        (
            ["-f", "torch", "-o", "new", "--quantize", "int8"],
            "torch cannot be quantized to 'int8', only to fp16; onnx,",
        ),
        (["-f", "torch", "-o", "no/new"], "--output no/new: there is no folder '"),
        (["-f", "torch", "-o", "file"], "--output file: a file; give a folder"),
        (
            ["-f", "torch", "-o", "full", "--overwrite"],
            "--output full: a folder with other files in it; give a new one",
        ),
        (["-f", "torch", "-o", "new", "--audio", "gone.wav"], "--audio 'gone.wav': no such file or folder"),
        (["-f", "torch", "-o", "new", "--audio", "full"], "no input found in 'full'"),
        (["-f", "torch", "-o", "new", "--audio", "-"], "--audio takes files and folders, not standard input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    arguments: list[str], message: str, golden: Path, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    said.mkdir()
    place = tmp_path / "place"
    (place / "full").mkdir(parents=True)
    (place / "full" / "notes.txt").touch()
    (place / "file").touch()
    before = sorted(place.rglob("*"))
    at = {"new": place / "new", "no/new": place / "no" / "new", "file": place / "file", "full": place / "full"}
    code, printed, error = run(["-m", golden / "micro_hub", *(at.get(word, word) for word in arguments)], said)
    assert (code, printed) == (2, "")
    error = error.replace(f"{place}/", "")
    assert error.startswith(f"ced: {message}") and error.count("\n") == 1
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["-f", "sherpa-onnx", "-o", "new", "--input", "waveform"], 2), (["-f", "torch", "-o", "."], 2)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_wrong_usage_answer_without_torch(arguments: list[str], code: int, golden: Path) -> None:
    script = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; from ced_cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "export", "-m", golden / "micro_hub", *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code and "Traceback" not in done.stderr
    assert ("--quantize fp16|int8" in done.stdout) == (code == 0)


def test_a_recording_that_cannot_be_read_fails_and_leaves_nothing(golden: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF" + bytes(100))
    output = tmp_path / "new"
    arguments: list[str | Path] = ["-m", golden / "micro_hub", "-f", "torch", "-o", output, "--audio", broken]
    code, printed, said = run(arguments, tmp_path)
    assert (code, printed) == (1, "") and said.splitlines()[-1].startswith(f"ced: --audio: {broken}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.wav", "stderr", "stdout"]
