# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Processing of shards by the workers of a Ray cluster, with retries on node failure."""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..messages import one_line
from .cluster import Pool

if TYPE_CHECKING:
    import pyarrow

FRUITLESS_PASSES = 2  # passes without a finished shard, after which the rest is given up
SHARDS_IN_FLIGHT = 2  # of each worker: the one at hand, and the next

Worker = Callable[["pyarrow.Table"], "pyarrow.Table"]


def run_shards(
    shards: dict[int, "pyarrow.Table"],
    make_worker: type[Worker] | Any,
    arguments: dict[str, Any],
    pool: Pool,
    on_death: Callable[[str], object] = lambda reason: None,
) -> Iterator[dict[str, Any]]:
    """
    Processes each shard; shards whose worker or node died are given to other workers.

    Work must be idempotent: a worker that was believed dead may still finish its shard.

    Args:
        shards: the inputs by the shard's number; each has a column `shard` with that.
        make_worker: a class whose objects take one of these tables and return a table of rows, in which `shard` is the
            number. Its objects are made once in each worker.
        arguments: for the class.
        pool: how many workers, with what.
        on_death: called with Ray's message about lost results, workers or nodes, in one line.

    Yields:
        The rows that workers return, as they come. Shards that no worker could finish are left out.
    """
    missing = dict(shards)
    fruitless = 0
    while missing and fruitless < FRUITLESS_PASSES:
        before = len(missing)
        # A worker that dies loses its next shard, too, so unfinished shards are then given out one by one.
        in_flight = 1 if fruitless else SHARDS_IN_FLIGHT
        for row in _run_once(list(missing.values()), make_worker, arguments, pool, in_flight, on_death):
            if missing.pop(row["shard"], None) is not None:
                yield row
        fruitless = fruitless + 1 if len(missing) == before else 0
        # Ray Data's workers keep their CPUs until nothing refers to them, and what refers to them forms cycles.
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

    # It would log each lost shard with its traceback, and a record that is kept keeps the worker and its CPUs.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Without retries of Ray's own: they keep a shard with the worker that had it, which may wait for a node that never
    # comes back, and without end for one that kills its worker.
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
        except ray.exceptions.RayError as error:  # a node took results with it
            on_death(one_line(error))
