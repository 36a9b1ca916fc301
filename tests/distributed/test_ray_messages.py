# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --ray`: the reason for the end of a run is printed. These tests need no cluster."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import ray
import typer

from ced_model.cli.ray import Observer
from ced_model.distributed import cluster, job
from ced_model.distributed.cluster import ClusterError, Pool
from ced_model.distributed.shards import ShardedOutput
from ced_model.distributed.tagging import RunObserver, _reported, follow
from ced_model.input_list import Input
from ced_model.messages import RunError, UsageError

MADE_BY = {"model": "a", "weights": "b", "engine": "onnx", "compute_type": "float32"}
STOPPED = "node 10.0.0.2: /data/part: No space left on device"


def row(shard: int, stopped_by: str | None = None) -> dict[str, Any]:
    return {"shard": shard, "inputs": 1, "audio_s": 1.0, "failures": [], "stopped_by": stopped_by}


@pytest.fixture
def output(tmp_path: Path) -> ShardedOutput:
    output = ShardedOutput(str(tmp_path / "tags"), {})
    output.begin(MADE_BY)
    output.plan([Input(name, name) for name in "abc"], shard_size=1)
    return output


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
def test_a_worker_that_cannot_continue_ends_the_run_with_its_reason_in_any_order_of_messages(
    order: tuple[int, ...], output: ShardedOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two complete shards, a full disk, and a lost node, which ends a pass; missing shards are computed again."""
    messages: list[Any] = [row(0), row(1), row(2, STOPPED), ray.exceptions.RayError("the node died")]
    passes: list[list[int]] = []

    def run_once(tables: list[Any], *_: Any) -> Iterator[dict[str, Any]]:
        missing = [table["shard"][0].as_py() for table in tables]
        passes.append(missing)
        for message in (messages[index] for index in order):
            if isinstance(message, Exception):
                if len(passes) == 1:
                    return
            elif message["shard"] in missing:
                yield message

    monkeypatch.setattr(job, "_run_once", run_once)
    shards = {number: pyarrow.table({"shard": [number]}) for number in range(3)}
    with pytest.raises(RunError) as caught:
        follow(job.run_shards(shards, None, {}, Pool(1, 1, 0)), output, RunObserver())
    assert str(caught.value).startswith(f"{STOPPED}; ") and str(caught.value).endswith("continue with `resume=True`")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (RunError(STOPPED), STOPPED, 1),
        (ClusterError("no node has 3 CPUs"), "no node has 3 CPUs", 1),
        (ray.exceptions.RaySystemError("the head is gone"), "Ray: System error: the head is gone", 1),
        (OSError(28, "No space left on device", "/x"), "'/x': No space left on device", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_line_is_printed_before_disconnecting_from_ray_even_if_that_fails(
    error: BaseException, line: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def shutdown() -> None:
        said.append(capsys.readouterr().err)
        raise RuntimeError("cannot shut down")

    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    monkeypatch.setattr(cluster, "check_versions", lambda: None)
    with pytest.raises(typer.Exit) as caught, cluster.connected("local"), _reported(Observer()):
        raise error
    assert caught.value.exit_code == code and said == [f"ced: {line}\n"]


@pytest.mark.parametrize(("last", "lines"), [("os._exit(1)", 1), ("os.kill(os.getpid(), 9)", 1), ("pass", 0)])
def test_a_process_that_is_terminated_prints_a_line(last: str, lines: int) -> None:
    script = f"import os\nfrom ced_model.cli.ray import _report_death\nwith _report_death('/tags'):\n    {last}"
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert done.stderr == lines * "ced: Ray or the system ended this process; results so far are in /tags\n"


def test_two_runs_that_start_in_one_folder_do_not_use_each_others_shards(output: ShardedOutput, tmp_path: Path) -> None:
    other = ShardedOutput(str(tmp_path / "tags"), {})
    with pytest.raises(RunError, match="another run has started there in the meantime"):
        other.begin(MADE_BY)
    second, third = (ShardedOutput(str(tmp_path / "tags"), {}) for _ in range(2))
    for each in (second, third):
        each.load()
    second.plan([Input("d", "d")], shard_size=1)
    with pytest.raises(RunError, match="another run has started there in the meantime"):
        third.plan([Input("e", "e")], shard_size=1)


@pytest.mark.parametrize("options", ["null", '["format"]', "3"])
def test_invalid_stored_options_of_a_folder_are_one_line(options: str, tmp_path: Path) -> None:
    (tmp_path / "_ced").mkdir()
    (tmp_path / "_ced" / "run.json").write_text(
        f'{{"ced_shards": 1, "run": "a", "made_by": {{"weights": "b"}}, "options": {options}}}'
    )
    with pytest.raises(UsageError, match="is from another version of ced: use `overwrite=True`"):
        ShardedOutput(str(tmp_path), {}).load()
