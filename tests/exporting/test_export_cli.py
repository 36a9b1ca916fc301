# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The `ced export` command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli_process
import pytest
from typer.testing import CliRunner

from ced_model.cli.app import app

REPOSITORY = Path(__file__).parents[2]


def run(*arguments: Any) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `ced export ARGUMENTS…`."""
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_an_export_is_verified_and_its_folder_printed(golden: Path, resources: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    arguments = ["-m", golden / "micro_hub", "-f", "onnx", "-o", output, "--compute-type", "float16"]
    code, printed, said = run(*arguments, "--audio", resources / "misc_crow.flac")
    assert (code, printed) == (0, f"{output}\n"), said
    lines = said.splitlines()
    assert lines[0].startswith("exporting ") and "1 of  0.15 s" in said and "3 of 10.12 s" in said
    assert lines[-1].startswith("model.onnx: ") and lines[-1].endswith("README.md has example code")
    assert max(map(len, lines)) < 200
    metadata = json.loads((output / "metadata.json").read_text(encoding="utf-8"))
    assert (metadata["model"], metadata["compute_type"]) == ("micro_hub", "float16")

    code, printed, said = run(*arguments)
    assert (code, printed) == (2, "")
    assert said == (
        f"ced: --output {output}: expected a new folder; this one has an export: use --overwrite,"
        " or give another name\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing --format: choose onnx, openvino, sherpa-onnx, torch"),
        (["-f", "onnx"], "missing --output DIR: where to write the export"),
        (["-f", "tflite", "-o", "new"], "--format tflite: expected onnx, openvino, sherpa-onnx, torch"),
        (
            ["-f", "sherpa-onnx", "-o", "new", "--input", "waveform"],
            "--input waveform: expected mel for the format sherpa-onnx",
        ),
        (
            ["-f", "torch", "-o", "new", "--compute-type", "int8"],
            "--compute-type int8: expected float32 or float16 for the format torch",
        ),
        (["-f", "onnx", "-o", "no/new"], "--output no/new: expected a path in an existing folder"),
        (["-f", "onnx", "-o", "file"], "--output file: expected a folder, not a file"),
        (["-f", "onnx", "-o", "full", "--overwrite"], "--output full: expected a new folder; this one has other files"),
        (["-f", "onnx", "-o", "new", "--audio", "gone.wav"], "--audio 'gone.wav': there is no such file or folder"),
        (["-f", "onnx", "-o", "new", "--audio", "full"], "no audio files in 'full'"),
        (["-f", "onnx", "-o", "new", "--audio", "-"], "--audio -: expected files and folders, not standard input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    arguments: list[str], message: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "notes.txt").touch()
    Path("file").touch()
    before = sorted(tmp_path.rglob("*"))
    code, printed, error = run("-m", golden / "micro_hub", *arguments)
    assert (code, printed) == (2, "")
    assert error.startswith(f"ced: {message}") and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_exports_are_made_and_verified_where_torch_is_not_installed(golden: Path, tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util as util; find = util.find_spec; missing = ('torch', 'transformers')\n"
        "util.find_spec = lambda name, *rest: None if name in missing else find(name, *rest)\n"
        "for name in missing: sys.modules[name] = None; del sys.modules[name]\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name in missing: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from ced_model.cli.app import app\n"
        "for format in ('onnx', 'openvino'):\n"
        "    app(['export', '-m', sys.argv[1], '-f', format, '-o', format], standalone_mode=False)\n"
        "try: app(['export', '-m', sys.argv[1], '-f', 'torch', '-o', 'torch'])\n"
        "except SystemExit as error: print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, golden / "micro_hub"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "onnx\nopenvino\n1\n", done.stderr
    assert done.stderr.splitlines()[-1] == (
        "ced: the format torch requires torch and transformers: pip install torch torchaudio transformers"
    )


def test_a_recording_that_cannot_be_read_fails_and_leaves_nothing(golden: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF" + bytes(100))
    code, printed, said = run(
        "-m", golden / "micro_hub", "-f", "onnx", "-o", tmp_path / "new", "--audio", broken, "--overwrite"
    )
    assert (code, printed) == (1, "") and said.splitlines()[-1].startswith(f"ced: --audio: {broken}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.wav"]


@pytest.mark.parametrize("export_format", ["onnx", "torch"])
def test_an_export_that_cannot_be_written_is_one_line_and_leaves_nothing(
    export_format: str, golden: Path, tmp_path: Path
) -> None:
    arguments = ["export", "-m", golden / "micro_hub", "-f", export_format, "-o", tmp_path / "new"]
    process = cli_process.start(arguments, stderr=tmp_path / "said", max_file_size=100_000)
    assert process.wait(300) == 1
    *_, last = (tmp_path / "said").read_text().splitlines()
    assert last == f"ced: {str(tmp_path / 'new')!r}: File too large"
    assert os.listdir(tmp_path) == ["said"]
