# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --ray` on two nodes has the results of one machine, even if a node, a disk or the driver fails."""

import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.dataset
import pytest
import ray
import soundfile
from cli_process import start
from ray.cluster_utils import Cluster
from ray_nodes import NODE
from sound_folder import fill_folder
from typer.testing import CliRunner

from ced_model.cli.app import app
from ced_model.records import Record, columns
from ced_model.writers import Format, read_records

pytestmark = pytest.mark.cluster

SLOW = ("--window", "0.5", "--hop", "0.05")  # many windows, so that shards are slow
PATIENCE_S = 300


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Any]:
    """A second node, for a test that may kill it."""
    node = cluster.add_node(**NODE)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 files, some of them broken."""
    return fill_folder(tmp_path_factory.mktemp("sounds"), 30, (0, 13, 29), (8000, 64000))


@pytest.fixture(scope="module")
def local(sounds: Path, random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The local results for `sounds` with the options `SLOW`."""
    output = tmp_path_factory.mktemp("local") / "tags.jsonl"
    arguments = ["tag", sounds, "--model", random_model, *SLOW, "--output", output]
    assert CliRunner().invoke(app, [*map(str, arguments)]).exit_code == 1
    return list(read_records(output, Format.JSONL))


@pytest.fixture
def arguments(cluster: Cluster, random_model: Path) -> list[Any]:
    return ["tag", "--ray", "--ray-address", cluster.address, "--model", random_model]


@pytest.fixture
def ced(arguments: list[Any]) -> Callable[..., str]:
    """Runs `ced tag --ray` in this process: `ced(*arguments, code=expected exit code)` returns the text on stderr."""

    def run(*more: Any, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*map(str, [*arguments, *more])])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.stderr
        assert not result.stdout and not ray.is_initialized()
        return result.stderr

    return run


def records_in(output: Path, kind: str = "tags") -> list[Record]:
    """The records of all shards in order. All files in the folder must be valid Parquet files."""
    parts = sorted(output.glob("part-*.parquet"))
    return [record for part in parts for record in read_records(part, Format.PARQUET, kind)]


def assert_same(records: list[Record], expected: list[Record]) -> None:
    assert [record["file"] for record in records] == [record["file"] for record in expected]
    for record, other in zip(records, expected, strict=True):
        assert record.keys() == other.keys() and record.get("error") == other.get("error")
        assert record.get("duration_s") == other.get("duration_s")
        tags, others = record.get("tags", []), other.get("tags", [])
        assert [tag["score"] for tag in tags] == pytest.approx([tag["score"] for tag in others], abs=1e-5)
        for tag, like in zip(tags, others, strict=True):
            assert (tag["label"], tag["index"]) == (like["label"], like["index"])


def workers_of(node: Any) -> list[psutil.Process]:
    """The processes on a node that have loaded a model."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    found = []
    for process in raylet.children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::MapWorker"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition: Callable[[], Any], process: BaseProcess) -> Any:
    """Waits until a condition is true while a command runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    return value


def last_line(path: Path) -> str:
    return path.read_text().splitlines()[-1]


def shards_in(output: Path) -> int:
    return len(list(output.glob("part-*.parquet")))


def test_two_nodes_have_the_results_of_one_machine(
    sounds: Path,
    local: list[Record],
    second: Any,
    ced: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "tags"
    monkeypatch.chdir(tmp_path)  # the nodes have another working directory
    said = ced(sounds, *SLOW, "-o", "tags", "--shard-size", 4, code=1)
    assert "Ray: 2 workers with 1 CPU each" in said and "30 of 30 inputs" in said and "3 failed" in said, said
    assert_same(records_in(output), local)
    assert said.count("00.wav: ") == 1 and len(said.splitlines()) == 6  # model, Ray, three errors, summary
    table = pyarrow.dataset.dataset(output).to_table()
    assert tuple(table.column_names) == columns("tags") and len(set(table["file"].to_pylist())) == 30


def test_killing_a_node_loses_and_duplicates_no_results(
    sounds: Path, local: list[Record], cluster: Cluster, second: Any, arguments: list[Any], tmp_path: Path
) -> None:
    output = tmp_path / "tags"
    command = [*arguments, sounds, *SLOW, "-o", output, "--shard-size", 1]
    process = start(command, stderr=tmp_path / "stderr")
    wait_for(lambda: workers_of(second), process)
    wait_for(lambda: shards_in(output) >= 3, process)
    assert shards_in(output) < 30
    cluster.remove_node(second, allow_graceful=False)
    process.join(PATIENCE_S)
    assert process.exitcode == 1, (tmp_path / "stderr").read_text()  # because some inputs are broken
    assert_same(records_in(output), local)
    assert "30 of 30 inputs" in last_line(tmp_path / "stderr")


def test_a_killed_driver_is_resumed_without_missing_or_duplicate_results(
    sounds: Path, local: list[Record], second: Any, arguments: list[Any], ced: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "tags"
    more = [sounds, *SLOW, "-o", output, "--shard-size", 1]
    process = start([*arguments, *more], stderr=tmp_path / "stderr")
    wait_for(lambda: shards_in(output) >= 3, process)
    process.kill()
    process.join()
    done = shards_in(output)
    assert process.exitcode == -signal.SIGKILL and done < 30
    (output / "part-000005.parquet").write_bytes(b"PAR1")  # an incomplete file, which no run writes
    said = ced(*more, "--resume", code=1)
    assert int(re.search(r"(\d+) results in .* are kept", said)[1]) >= done - 4  # type: ignore[index]
    assert_same(records_in(output), local)
    # Only failed inputs are retried.
    before = {part: part.stat().st_mtime_ns for part in output.glob("part-*.parquet")}
    soundfile.write(sounds / "13.wav", np.zeros(16000), 16000)
    try:
        assert "27 results" in ced(*more, "--resume", code=1)
    finally:
        (sounds / "13.wav").write_bytes(b"RIFF")
    changed = [part.name for part, then in before.items() if part.stat().st_mtime_ns != then]
    assert sorted(changed) == ["part-000000.parquet", "part-000013.parquet", "part-000029.parquet"]
    assert records_in(output)[13]["duration_s"] == 1.0


def test_a_full_disk_on_one_node_is_one_line_and_leaves_complete_shards(
    sounds: Path, local: list[Record], second: Any, arguments: list[Any], ced: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "tags"
    more = [sounds, *SLOW, "-o", output, "--shard-size", 1]
    process = start([*arguments, *more], stderr=tmp_path / "stderr")
    (worker,) = wait_for(lambda: workers_of(second), process)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    process.join(PATIENCE_S)
    said = last_line(tmp_path / "stderr")
    # The file is part of a shard, or of the model that was sent to the node.
    expected = rf"ced: node [\d.]+: /\S+: File too large; \d+ of 30 shards are in {output}: continue with --resume$"
    assert process.exitcode == 1 and re.match(expected, said), said
    assert all(record in local for record in records_in(output) if "error" in record)
    assert not [part for part in output.glob(".part-*") if part.stat().st_size <= 1000]
    ced(*more, "--resume", code=1)
    assert_same(records_in(output), local)
