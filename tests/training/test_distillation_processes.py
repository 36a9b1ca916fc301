# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill teach` and `train` in two processes equal one process, even if one of the two is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification
from ced_model.cli.app import app
from ced_model.training.distillation.store import SHARDS
from ced_model.training.run_folder import find_checkpoints

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
LABELS = {index: f"class {index}" for index in range(7)}
PATIENCE_S = 300
# The teacher of `teacher/`, slowed down, so that a process can be killed during the run.
SLOW_TEACHER = """
import time
from pathlib import Path
import torch
from ced_model import CedFeatureExtractor, CedForAudioClassification

class Slow:
    labels = [f"class {index}" for index in range(7)]

    def __init__(self):
        folder = Path(__file__).parent / "teacher"
        self.extractor = CedFeatureExtractor.from_pretrained(folder)
        self.model = CedForAudioClassification.from_pretrained(folder).eval()

    @torch.inference_mode()
    def __call__(self, waveforms):
        time.sleep(0.1)
        return self.model(**self.extractor(waveforms, sampling_rate=16000)).logits.sigmoid()
"""


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `audio/` of two kinds of noise, and `teachers.py`."""
    folder = tmp_path_factory.mktemp("school")
    (folder / "audio").mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        noise = generator.normal(size=160_000)
        noise = np.cumsum(noise) if number % 2 else noise
        soundfile.write(folder / "audio" / f"{number:02}.wav", 0.5 * noise / np.abs(noise).max(), 16000)
    torch.manual_seed(0)
    teacher = CedForAudioClassification(CedConfig(embed_dim=24, depth=1, num_heads=3, id2label=LABELS))
    teacher.outputlayer[1].weight.data.mul_(60)  # more varied outputs
    teacher.save_pretrained(folder / "teacher")
    CedFeatureExtractor().save_pretrained(folder / "teacher")
    (folder / "teachers.py").write_text(SLOW_TEACHER)
    (folder / "student.json").write_text(json.dumps({"model_type": "ced", "embed_dim": 24, "depth": 1, "num_heads": 2}))
    return folder


@pytest.fixture(scope="module")
def lessons(school: Path) -> list[Any]:
    """The teaching command without `--output`."""
    return ["distill", "teach", school / "audio", "--teacher", f"{school}/teachers.py:Slow", "--epochs", "4"]


@pytest.fixture(scope="module")
def store(school: Path, lessons: list[Any]) -> Path:
    """The store of a single process."""
    run = CliRunner().invoke(app, [*map(str, [*lessons, "--output", school / "store"])])
    assert run.exit_code == 0, run.stderr
    return school / "store"


def start_two(arguments: list[Any], output: Path) -> subprocess.Popen[bytes]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ced_model"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(output, "wb") as stream:
        return subprocess.Popen([*launch, *map(str, arguments)], env=environment, stdout=stream, stderr=stream)


def run_two(arguments: list[Any], output: Path) -> str:
    """Runs the command in two processes; returns their output."""
    process = start_two(arguments, output)
    assert process.wait(PATIENCE_S) == 0, output.read_text()
    return output.read_text()


def kill_one_of_two(arguments: list[Any], output: Path, is_time: Callable[[], bool]) -> None:
    """Runs the command in two processes, kills the second one by SIGKILL, and waits for the first to end."""
    process = start_two(arguments, output)
    deadline = time.monotonic() + PATIENCE_S
    while not is_time():
        assert process.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.01)
    ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
    os.kill(ranks["1"].pid, signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 1, output.read_text()


def rows(store: Path) -> dict[str, list[dict[str, Any]]]:
    return {file.name: pq.read_table(file).to_pylist() for file in sorted((store / SHARDS).glob("*.parquet"))}


def losses(student: Path) -> np.ndarray:
    """The loss of each step of a run."""
    folder = student.with_name(f"{student.name}.training")
    state = json.loads((folder / f"checkpoint-{max(find_checkpoints(folder))}" / "trainer_state.json").read_text())
    return np.array([entry["loss"] for entry in state["log_history"] if "loss" in entry])


def test_teaching_continues_after_one_of_two_processes_was_killed(
    lessons: list[Any], store: Path, tmp_path: Path
) -> None:
    arguments = [*lessons, "--output", tmp_path / "store"]
    shards = tmp_path / "store" / SHARDS
    kill_one_of_two(arguments, tmp_path / "killed", lambda: any(shards.glob("*.parquet")))
    assert set(rows(tmp_path / "store")) <= set(rows(store))
    run_two(arguments, tmp_path / "said")
    assert rows(tmp_path / "store").keys() == rows(store).keys()
    for name, ours in rows(tmp_path / "store").items():
        assert ours == rows(store)[name]


def test_two_processes_train_like_one_and_continue_after_one_was_killed(
    school: Path, store: Path, tmp_path: Path
) -> None:
    def arguments(name: str, batch_size: int) -> list[Any]:
        options = ["--batch-size", batch_size, "--max-steps", "12", "--save-steps", "4", "--workers", "0"]
        options += ["--held-out", "0.1", "--set", "logging_steps=1", "--student", school / "student.json"]
        return ["distill", "train", store, *options, "--output", tmp_path / name]

    run = CliRunner().invoke(app, [*map(str, arguments("one", 16))])
    assert run.exit_code == 0, run.stderr
    run_two(arguments("two", 8), tmp_path / "said")
    # The same batches; only the statistics of the input are computed on half of each.
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(alone) == len(together) == 12 and alone[-3:].mean() < alone[:3].mean() - 0.02
    whole = np.arange(12) % 3 < 2  # not the last batch of an epoch, which two processes divide differently
    assert together[whole] == pytest.approx(alone[whole], rel=0.02)
    saved = tmp_path / "killed.training" / "checkpoint-8" / "trainer_state.json"
    kill_one_of_two(arguments("killed", 8), tmp_path / "said", saved.exists)
    assert not (tmp_path / "killed").exists()
    assert "continuing from checkpoint-" in run_two([*arguments("killed", 8), "--resume"], tmp_path / "said")
    assert losses(tmp_path / "killed") == pytest.approx(together, abs=1e-6)
