# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards on a Ray cluster are retried if workers die, until a shard has killed several workers."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import ray
from ray.cluster_utils import Cluster
from ray_nodes import NODE

from ced_model.distributed.cluster import Pool, choose_pool, connected
from ced_model.distributed.job import run_shards

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def connection(cluster: Cluster) -> Iterator[None]:
    with connected(cluster.address):
        yield


def make_shards(count: int) -> dict[int, pyarrow.Table]:
    return {number: pyarrow.table({"shard": [number] * 3, "value": [number, 1, 2]}) for number in range(count)}


def make_worker() -> Any:
    class Worker:  # a local class, which Ray sends by value: the nodes need not import this file
        def __init__(self, notes: Path, pause_s: float, deadly: int | None = None) -> None:
            self.notes, self.pause_s, self.deadly = notes, pause_s, deadly

        def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
            number = table["shard"][0].as_py()
            node = ray.get_runtime_context().get_node_id()
            (self.notes / f"{number}-{node}-{os.getpid()}").touch()
            time.sleep(self.pause_s)
            if number == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return pyarrow.table({"shard": [number], "sum": [sum(table["value"].to_pylist())]})

    return Worker


def test_shards_of_a_killed_node_are_done_by_others(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(**NODE)
    rows = []
    try:
        assert choose_pool() == Pool(workers=2, cpus=1, gpus=0)
        for row in run_shards(make_shards(16), make_worker(), {"notes": tmp_path, "pause_s": 0.2}, Pool(2, 1, 0)):
            rows.append(row)
            if node in cluster.worker_nodes and any(f"-{node.node_id}-" in note for note in os.listdir(tmp_path)):
                cluster.remove_node(node, allow_graceful=False)
    finally:
        if node in cluster.worker_nodes:
            cluster.remove_node(node)
    assert sorted(row["shard"] for row in rows) == list(range(16))
    assert all(row["sum"] == row["shard"] + 3 for row in rows)
    assert any(f"-{node.node_id}-" in note for note in os.listdir(tmp_path))


def test_a_shard_that_kills_its_workers_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    arguments = {"notes": tmp_path, "pause_s": 0.01, "deadly": 2}
    rows = list(run_shards(make_shards(6), make_worker(), arguments, Pool(1, 1, 0)))
    assert sorted(row["shard"] for row in rows) == [0, 1, 3, 4, 5]
    workers = {note.rpartition("-")[2] for note in os.listdir(tmp_path) if note.startswith("2-")}
    assert len(workers) >= 3  # a shard may lose one worker for other reasons
