# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run can be resumed and is used by only one run at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ced_model.training.run_folder import find_checkpoints, last_checkpoint, open_run

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def make_checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint with the files that are checked."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.arange(100.0)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({"state": torch.arange(100.0)}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text("{}")
    return checkpoint


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_an_incomplete_checkpoint_is_ignored(name: str, damage: object, tmp_path: Path) -> None:
    whole, broken = make_checkpoint(tmp_path, 9), make_checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path) == broken
    damage(broken / name)  # type: ignore[operator]
    assert last_checkpoint(tmp_path) == whole and find_checkpoints(tmp_path) == {9: True}


def test_a_damaged_optimizer_is_detected_by_its_checksum(tmp_path: Path) -> None:
    flip_a_bit(make_checkpoint(tmp_path, 1) / "optimizer.pt")
    assert last_checkpoint(tmp_path) is None


def test_adapters_count_as_weights(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 1)
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    assert last_checkpoint(tmp_path) == checkpoint


def test_a_second_run_into_the_same_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "out.training"
    with open_run(folder, {"seed": 0}):
        make_checkpoint(folder, 1)
    command = [sys.executable, "-S", "-c", HOLD, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(ValueError, match="out.training is in use by another run") as caught:
                with open_run(folder, {"seed": 0}, **options):
                    pass
            assert "\n" not in str(caught.value)
        other.kill()
    with open_run(folder, {"seed": 0}, resume=True) as checkpoint:
        assert checkpoint == folder / "checkpoint-1"


def test_a_run_is_resumed_as_it_was_started_or_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "out.training"
    with open_run(folder, {"seed": 0, "labels": ["a"], "path": Path("x")}, resume=True) as checkpoint:
        assert checkpoint is None  # nothing to resume: it starts
        make_checkpoint(folder, 1)
    with pytest.raises(ValueError, match="contains the checkpoints of a run: use `resume=True` or `overwrite=True`"):
        with open_run(folder, {"seed": 0}):
            pass
    with pytest.raises(
        ValueError, match=r"differs in labels, path \(x then, None now\), seed \(0 then, 1 now\): resume"
    ):
        with open_run(folder, {"seed": 1, "labels": ["b"]}, resume=True):
            pass
    with open_run(folder, {"seed": 1}, overwrite=True) as checkpoint:
        assert checkpoint is None and find_checkpoints(folder) == {}
    assert json.loads((folder / "run.json").read_text()) == {"seed": 1}


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains files that are not checkpoints"):
        with open_run(tmp_path, {}, overwrite=True):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
