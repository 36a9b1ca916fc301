# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Tags files, folders and URIs on a Ray cluster. The output is a folder of Parquet shards with tags or events."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines import choose_engine, is_installed
from ..hub import MODEL_FILES
from ..input_list import STANDARD_INPUT, Input, find_inputs
from ..messages import OptionError, RunError, UsageError, one_line
from ..packages import require
from ..records import check_options, made_by
from ..tagger import AudioTagger

if TYPE_CHECKING:
    from .cluster import Pool
    from .shards import ShardedOutput
    from .worker import Task

SHARD_INPUTS = (16, 256)  # minimum and maximum by default
SHARDS_PER_WORKER = 4  # or more, so that all workers finish at about the same time


class RunObserver:
    """Receives the progress of a run. The methods do nothing and can be overridden."""

    def note(self, line: str) -> None:
        """Called with a line to show."""

    def loaded(self, tagger: AudioTagger) -> None:
        """Called when the model was loaded on this machine, to check it and the options."""

    def begin(self, total: int) -> None:
        """Called with the number of inputs to tag."""

    def tagged(self, inputs: int, audio_s: float, failures: list[dict[str, str]]) -> None:
        """Called for each written shard with the number of inputs tagged now, and `file` and `error` of failures."""

    def failed(self, error: BaseException) -> None:
        """Called with the error that ends the run, before the disconnection from Ray, which may hang or crash."""


def tag_on_ray(
    paths: Iterable[str],
    output: str,
    *,
    list_file: str | None = None,
    model: str | os.PathLike[str] | None = None,
    engine: str = "auto",
    compute_type: str | None = None,
    device: str | None = None,
    num_threads: int | None = None,
    batch_size: int | None = None,
    events: bool = False,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    ray_address: str | None = None,
    workers: int | None = None,
    shard_size: int | None = None,
    observer: RunObserver | None = None,
) -> None:
    """
    Tags inputs on a Ray cluster. The output is a folder of Parquet files.

    Args:
        paths: Files, folders and patterns that are the same on all nodes, or URIs such as `s3://bucket/folder`.
        output: The folder of the results: a path shared by all nodes, or a URI.
        list_file: A file with more paths and URIs, as for `find_inputs`.
        model, engine, compute_type, batch_size: As for [`AudioTagger`].
        device: `"cpu"` or `"cuda"`, by default GPUs if the cluster has any.
        num_threads: CPUs per worker, by default 4, or those of the smallest node.
        events: Whether to find events instead of tags.
        options: Keyword arguments of [`AudioTagger.tag`], or with `events` of [`AudioTagger.events`].
        resume: Keep the results in `output`, and tag only missing and failed inputs.
        overwrite: Discard the results in `output`.
        ray_address: `HOST:PORT` of the cluster's head; by default `RAY_ADDRESS`, else this machine.
        workers: Number of workers, by default as many as fit on the cluster.
        shard_size: Inputs per file, by default 16 to 256.
        observer: Receives the progress.

    Raises:
        UsageError: for invalid options.
        RunError: if the run cannot start or continue.
        MissingPackageError: if Ray Data is not installed.
    """
    require(("pyarrow", "ray"), "tagging on Ray")
    import ray.data  # before `connected`, which would show its warnings

    from ..storage import is_uri
    from .cluster import choose_pool, connected
    from .shards import ShardedOutput
    from .worker import Task

    observer, options, paths = observer or RunObserver(), dict(options or {}), list(paths)
    if engine in ("onnx", "openvino") or (engine == "auto" and (compute_type == "int8" or not is_installed("torch"))):
        device = "cpu"  # even where there are GPUs
    if device is not None and device.startswith("cuda:"):
        raise OptionError("device", device, "cuda: each worker has a GPU of its own")
    if STANDARD_INPUT in paths:
        raise UsageError("workers cannot read standard input: give files, folders or URIs")
    kind = "events" if events else "tags"
    inputs = _find(paths, list_file)
    place = output if is_uri(output) else os.path.abspath(output)  # workers have another working directory
    with _storage_errors(place):
        sharded = ShardedOutput(place, {"events": events} | options)
        if resume:
            sharded.load()
        elif not overwrite:
            sharded.refuse_existing()
    new = sharded.unplanned(inputs)
    if sharded.kept:
        observer.note(f"{sharded.kept} results in {output} are kept")
    if not new and not sharded.waiting():
        return
    computing: dict[str, Any] = {"engine": engine, "compute_type": compute_type, "batch_size": batch_size}
    tagger = AudioTagger(model, device="cpu", **computing)
    observer.loaded(tagger)
    check_options(tagger, options, kind)
    folder = Path(str(tagger.folder))  # its files are sent to the nodes
    files = {path.name: path.read_bytes() for pattern in MODEL_FILES for path in sorted(folder.glob(pattern))}
    with connected(ray_address), _reported(observer):
        pool = choose_pool(device, num_threads, workers)
        gpu = " and a GPU" * pool.gpus
        each = f"{pool.cpus} CPU{'s' * (pool.cpus > 1)}{gpu} each"
        observer.note(f"Ray: {pool.workers} worker{'s' * (pool.workers > 1)} with {each}")
        computing |= {"num_threads": pool.cpus, "device": "cuda" if pool.gpus else device or "cpu"}
        choice = choose_engine(engine, compute_type, computing["device"])
        maker = made_by(tagger) | {"engine": choice.engine, "compute_type": choice.compute_type}
        del tagger  # frees memory
        with _storage_errors(place):
            if overwrite:
                sharded.clear()
            sharded.begin(maker)
            sharded.plan(new, shard_size or _shard_size(len(new), pool))
        task = Task(
            output=sharded.output,
            run=sharded.run,
            made_by=sharded.made_by,
            model_files=ray.put(files),
            computing=computing,
            options=options,
            kind=kind,
            example=_example(sharded),
        )
        _run(sharded, task, pool, observer)


def _find(paths: list[str], list_file: str | None) -> list[Input]:
    """Finds inputs on any file system, as `find_inputs` does on local disks."""
    from ..storage import is_uri, walk_uri

    found: list[str] = []
    for path in paths:
        if not is_uri(path):
            found.append(path)
            continue
        with _storage_errors(path):
            inside = list(walk_uri(path))
        if not inside:
            raise UsageError(f"no audio files in {path}")
        found += inside
    items = find_inputs(found, list_file)
    return [replace(item, name=item.name.partition("?")[0]) if is_uri(item.name) else item for item in items]


@contextmanager
def _storage_errors(path: str) -> Iterator[None]:
    from ..storage import is_uri, reason_of

    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(reason_of(error)) from error
    except OSError as error:
        hint = "; does it exist, and does this machine have the credentials for it?" if is_uri(path) else ""
        raise RunError(f"{path}: {reason_of(error)}{hint}") from error


@contextmanager
def _reported(observer: RunObserver) -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        reported = RunError(f"Ray: {one_line(error)}")
        observer.failed(reported)
        raise reported from error
    except (Exception, KeyboardInterrupt) as error:
        observer.failed(error)
        raise


def _shard_size(inputs: int, pool: "Pool") -> int:
    least, most = SHARD_INPUTS
    return min(max(ceil(inputs / (pool.workers * SHARDS_PER_WORKER)), least), most)


def _example(output: "ShardedOutput") -> str | None:
    """A local path of an input that exists on this machine, and so must exist on the nodes."""
    from ..storage import is_uri

    sources = (os.fsdecode(s) for table in output.waiting().values() for s in table["source"].to_pylist())
    return next((source for source in sources if not is_uri(source) and os.path.exists(source)), None)


def _run(output: "ShardedOutput", task: "Task", pool: "Pool", observer: RunObserver) -> None:
    from .job import run_shards
    from .worker import ShardTagger

    waiting = output.waiting()
    observer.begin(sum(output.done.get(number, table.num_rows) for number, table in waiting.items()))
    deaths: list[str] = []
    try:
        follow(run_shards(waiting, ShardTagger, {"task": task}, pool, deaths.append), output, observer)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(output.advice) from error
    lacking = [number for number in output.shards if number not in output.done]
    if lacking:
        names = output.shards[lacking[0]]["file"]
        raise RunError(
            f"workers died repeatedly on {len(lacking)} shard{'s' * (len(lacking) > 1)}, the first from"
            f" {names[0]} to {names[-1]}{f' ({deaths[-1][:300]})' if deaths else ''}; {output.advice}, or leave"
            " these inputs out"
        )


def follow(rows: Iterable[dict[str, Any]], output: "ShardedOutput", observer: RunObserver) -> None:
    """Passes reports of workers to the observer. Raises a `RunError` with the first reason to stop the run."""
    for row in rows:
        if row["stopped_by"] is not None:
            raise RunError(f"{row['stopped_by']}; {output.advice}")
        output.done[row["shard"]] = len(row["failures"])
        observer.tagged(row["inputs"], row["audio_s"], row["failures"])
