# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Systems without the calls of Unix, such as Windows, as far as they can be imitated on Unix."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ced_model.cli.terminal import quoted
from ced_model.live.hooks import split_command
from ced_model.messages import RunError
from ced_model.output import LOCKED_BYTE
from ced_model.serve import metrics
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


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """The inodes and positions locked by an imitation of `msvcrt`, in place of `fcntl`."""
    found: set[tuple[int, int]] = set()

    def locking(descriptor: int, mode: int, length: int) -> None:
        place = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        if place in found:
            raise PermissionError(13, "Permission denied")
        found.add(place)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    return found


def test_a_journal_and_a_training_folder_have_one_writer_on_windows(
    tmp_path: Path, locked: set[tuple[int, int]]
) -> None:
    first, second = (Lines(str(tmp_path / "tags.journal")) for _ in range(2))
    first.open(os.O_RDWR | os.O_CREAT)
    first.write({"file": "a.wav"})
    assert {position for _, position in locked} == {LOCKED_BYTE}
    assert (tmp_path / "tags.journal").read_bytes() == b'{"file": "a.wav"}\n'
    with pytest.raises(RunError, match="tags.journal is in use by another run"):
        second.open(os.O_RDWR)
    with open(tmp_path / "lock", "a") as file:
        run_folder._lock(file, tmp_path)
        with pytest.raises(ValueError, match="is in use by another run"):
            run_folder._lock(file, tmp_path)


def test_system_dependent_functions_have_a_variant_for_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(process: int, number: int) -> None:
        raise AssertionError("signal 0 is Ctrl-C on Windows")

    results: dict[Callable[[str], object], tuple[str, object]] = {
        split_command: (
            r'"C:\Program Files\alarm.exe" --label "a b"',
            [r"C:\Program Files\alarm.exe", "--label", "a b"],
        ),
        quoted: (r"C:\my models", r'"C:\my models"'),
    }
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(os, "name", "nt")
    found = {function: function(text) for function, (text, _) in results.items()}
    is_alive = metrics._is_alive(1)
    monkeypatch.undo()
    assert found == {function: expected for function, (_, expected) in results.items()} and is_alive
    assert quoted("my models") == "'my models'" and split_command(r"run a\ b") == ["run", "a b"]


def test_a_journal_is_removed_where_open_files_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, unlink = Lines(str(tmp_path / "tags.journal")), os.unlink
    lines.open(os.O_RDWR | os.O_CREAT)

    def refuse_open_files(path: str) -> None:
        if lines._file is not None:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse_open_files)
    lines.remove()
    assert os.listdir(tmp_path) == []
