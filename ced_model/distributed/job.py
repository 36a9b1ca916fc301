# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Processes shards with the workers of a Ray cluster, with retries on node failure."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..messages import one_line
from .cluster import Pool

if TYPE_CHECKING:
    import pyarrow

FRUITLESS_PASSES = 2  # passes without a finished shard after which the job gives up
SHARDS_IN_FLIGHT = 2  # per worker: the current one and the next

Worker = Callable[["pyarrow.Table"], "pyarrow.Table"]


def run_shards(
    shards: dict[int, "pyarrow.Table"],
    make_worker: type[Worker] | Any,
    arguments: dict[str, Any],
    pool: Pool,
    on_death: Callable[[str], object] = lambda reason: None,
) -> Iterator[dict[str, Any]]:
    """
    Processes each shard. If a worker or node dies, its shards are given to other workers.

    Work must be idempotent: a worker that is believed dead may still finish its shard.

    Args:
        shards: Tables of inputs by shard number, with the number in their column `shard`.
        make_worker: A class whose instances are called with one of these tables and return a table with a column
            `shard`. Each worker has one instance.
        arguments: Arguments of the class.
        pool: Number and resources of the workers.
        on_death: Called with Ray's message about lost results, workers or nodes, in one line.

    Yields:
        The rows returned by workers, as they arrive. Shards that no worker could finish are missing.
    """
    missing = dict(shards)
    fruitless = 0
    while missing and fruitless < FRUITLESS_PASSES:
        before = len(missing)
        # A worker that dies also loses its next shard, so unfinished shards are then given out one by one.
        in_flight = 1 if fruitless else SHARDS_IN_FLIGHT
        for row in _run_once(list(missing.values()), make_worker, arguments, pool, in_flight, on_death):
            if missing.pop(row["shard"], None) is not None:
                yield row
        fruitless = fruitless + 1 if len(missing) == before else 0
        # Ray Data's workers keep their CPUs until they are garbage-collected, and references to them form cycles.
        gc.collect()


def _run_once(
    tables: list["pyarrow.Table"],
    make_worker: Any,
    arguments: dict[str, Any],
    pool: Pool,
    in_flight: int,
    on_death: Callable[[str], object],
) -> Iterator[dict[str, Any]]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    # It would log each lost shard with a traceback, and a log record that is kept keeps the worker and its CPUs.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray's own retries are disabled. They bind a shard to its worker: they may wait for a node that never returns, and
    # repeat a shard that kills its worker forever.
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1
    size = min(pool.workers, len(tables))
    rows = ray.data.from_arrow(tables).map_batches(
        make_worker,
        fn_constructor_kwargs=arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=in_flight),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        max_task_retries=0,
    )
    with closing(iter(rows.iter_rows())) as results:  # type: ignore[type-var]
        try:
            yield from results
        except ray.exceptions.RayError as error:  # a dead node held results
            on_death(one_line(error))
