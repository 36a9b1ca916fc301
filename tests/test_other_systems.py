# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Systems without Unix calls, such as Windows, as far as they can be simulated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ced_model.training import run_folder
from ced_model.unfinished import Lines

ROOT = Path(__file__).parents[1]
WITHOUT_UNIX = """
import os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
calls = "fork forkpty getuid geteuid register_at_fork sched_getaffinity fchmod chown mkfifo"
for owner, names in ((os, calls), (signal, "SIGHUP SIGKILL SIGALRM setitimer")):
    for name in names.split():
        delattr(owner, name)
from ced_model.cli import main
main()
"""


def test_the_command_needs_no_call_of_unix(tmp_path: Path, resources: Path) -> None:
    output = tmp_path / "tags.json"
    command = [sys.executable, "-c", WITHOUT_UNIX, "tag", str(resources / "misc_crow.flac"), "-o", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for further in ([], ["--resume"]):
        process = subprocess.run([*command, *further], env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
    (record,) = json.loads(output.read_text(encoding="utf-8"))
    assert len(record["tags"]) == 5 and os.listdir(tmp_path) == ["tags.json"]


def test_a_training_folder_can_be_used_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with open(tmp_path / "lock", "w") as file:
        run_folder._lock(file, tmp_path)


def test_a_journal_is_removed_on_systems_that_cannot_remove_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, unlink = Lines(str(tmp_path / "tags.journal")), os.unlink
    lines.open(os.O_RDWR | os.O_CREAT)

    def refuse_open_files(path: str) -> None:
        if lines._file is not None:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse_open_files)
    lines.remove()
    assert os.listdir(tmp_path) == []
