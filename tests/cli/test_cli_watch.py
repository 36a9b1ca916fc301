# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --watch`: each file once, as soon as it is complete, over restarts."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import soundfile
from cli_process import Process, start
from live_servers import scene, wait_until
from typer.testing import CliRunner

from ced_model.cli.app import app

MODEL = Path(__file__).parents[1] / "golden" / "micro_hub"


def watching(folder: Path, output: Path, *options: str) -> Process:
    arguments = ["tag", "--watch", folder, "-m", MODEL, "--output", output, *options]
    return start(arguments, stderr=output.with_suffix(".log"))


def entries(output: Path) -> list[dict[str, Any]]:
    journal = output.with_name(output.name + ".journal")
    path = journal if journal.exists() else output
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry for entry in map(json.loads, lines) if "file" in entry]


def test_files_are_tagged_once_they_are_complete_and_again_only_if_they_failed(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "tags.jsonl"
    folder.mkdir()
    scene(folder / "first.wav")
    process = watching(folder, output)
    wait_until(lambda: len(entries(output)) == 1)
    (folder / "new" / "deep").mkdir(parents=True)
    content = scene(tmp_path / "whole.wav").read_bytes()
    slow = folder / "new" / "deep" / "slow.wav"
    with open(slow, "wb", buffering=0) as file:  # in pieces, at intervals shorter than the settling time
        for start_at in range(0, len(content), len(content) // 8):
            file.write(content[start_at : start_at + len(content) // 8])
            wait_until(lambda: True)
    (folder / "bad.wav").write_text("no audio")
    (folder / ".hidden.wav").write_bytes(content)
    (folder / "notes.txt").write_text("no audio file")
    wait_until(lambda: len(entries(output)) == 3)
    process.send_signal(signal.SIGKILL)
    process.wait()

    scene(folder / "bad.wav")
    scene(folder / "later.wav")
    output.with_suffix(".log").unlink()
    process = watching(folder, output, "--resume")
    wait_until(lambda: len({entry["file"] for entry in entries(output) if "error" not in entry}) == 4)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 0, output.with_suffix(".log").read_text()
    found = {entry["file"]: entry for entry in entries(output)}
    assert sorted(Path(name).name for name in found) == ["bad.wav", "first.wav", "later.wav", "slow.wav"]
    assert not any("error" in entry for entry in found.values()) and len(entries(output)) == 4
    assert found[str(slow)]["duration_s"] == soundfile.info(slow).duration
    assert not output.with_name("tags.jsonl.journal").exists()
    lines = output.with_suffix(".log").read_text().splitlines()
    assert f"watching {folder} for new files: stop with Ctrl-C" in lines
    assert lines[-1] == "2 of 2 inputs, 18.0 s of audio"  # no speed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch"], "--watch needs one folder"),
        (["--watch", "a", "b"], "--watch needs one folder"),
        (["--watch", "no_such_folder"], "--watch no_such_folder: expected a folder"),
        (["--watch", ".", "--from", "list.txt"], "--watch needs one folder, without --from"),
    ],
)
def test_unsupported_uses_of_watch_are_one_line(arguments, message):
    result = CliRunner().invoke(app, ["tag", *arguments])
    assert result.exit_code == 2 and message in result.stderr
