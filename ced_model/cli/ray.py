# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --ray`: inputs → shards of records, by workers on the nodes of a Ray cluster."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .errors import FAILED, INTERRUPTED, CliError, fail
from .formats import Format, Record
from .inputs import STANDARD_INPUT, Input, find_inputs
from .model import choose_model
from .progress import RunProgress
from .terminal import one_line, printable, say

if TYPE_CHECKING:
    import pyarrow

    from .. import AudioTagger
    from ..scale.cluster import Pool
    from .shards import ShardedOutput
    from .tag import TagOptions

NO_ACCESS = ("ACCESS_DENIED", "NETWORK_CONNECTION", "credentials")  # in what PyArrow says of a store
SHARD_INPUTS = (16, 256)  # at least and at most, by default
SHARDS_PER_WORKER = 4  # if that is possible, so that all have work to the end


def tag_on_ray(paths: list[str], list_file: str | None, options: "TagOptions") -> RunProgress:
    """
    Tags inputs on a cluster, into a folder of shards.

    Raises:
        CliError: for wrong usage, and where it cannot go on.
    """
    _check_installed()
    from ..scale.storage import is_uri
    from .shards import ShardedOutput
    from .tag import lasting_options, load

    if options.engine in ("onnx", "openvino"):
        options = replace(options, device="cpu")  # even where there are GPUs
    assert options.output is not None
    # Nodes work in other folders.
    place = options.output if is_uri(options.output) else os.path.abspath(options.output)
    options = replace(options, output=place)
    if options.device and options.device.startswith("cuda:"):
        raise CliError(f"--device {options.device}: with --ray each worker has a GPU of its own: --device cuda")
    if STANDARD_INPUT in paths:
        raise CliError("--ray cannot read standard input: give files, folders or URIs")
    inputs = _find(paths, list_file)
    with _storage_errors(place):
        output = ShardedOutput(place, lasting_options(options, Format.PARQUET))
        if options.resume:
            output.load()
        elif not options.overwrite:
            output.refuse_existing()
    new = output.unplanned(inputs)
    if output.kept:
        say(f"{output.kept} results in {options.output} are kept")
    if not new and not output.waiting():
        return RunProgress(0)
    model = choose_model(options.model)
    weights = load(replace(options, device="cpu")).fingerprint
    with _cluster(options) as pool:
        with _storage_errors(place):
            if options.overwrite:
                output.clear()
            output.begin(weights)
            output.plan(new, options.shard_size or _shard_size(len(new), pool))
        return _run(output, options, pool, _files_of(model))


def _check_installed() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise CliError('--ray needs Ray Data: pip install "ced_model[ray]"', FAILED) from error


def _find(paths: list[str], list_file: str | None) -> list[Input]:
    """`find_inputs`, in folders of any file system."""
    from ..scale.storage import is_uri, walk_uri

    found: list[str] = []
    for path in paths:
        if not is_uri(path):
            found.append(path)
            continue
        with _storage_errors(path):
            inside = list(walk_uri(path))
        if not inside:
            raise CliError(f"no audio files in {path}")
        found += inside
    items = find_inputs(found, list_file)
    return [replace(item, name=item.name.partition("?")[0]) if is_uri(item.name) else item for item in items]


@contextmanager
def _storage_errors(path: str) -> Iterator[None]:
    from ..scale.storage import is_uri
    from ..scale.storage import one_line as reason_of

    try:
        yield
    except ValueError as error:
        raise CliError(reason_of(error)) from error
    except OSError as error:
        hint = "; is it there, and does this machine have the credentials for it?" if is_uri(path) else ""
        raise CliError(f"{path}: {reason_of(error)}{hint}", FAILED) from error


@contextmanager
def _cluster(options: "TagOptions") -> Iterator["Pool"]:
    from ..scale.cluster import ClusterError, choose_pool, connected

    try:
        with told_if_ended(f"{options.output}: go on with --resume"), connected(options.ray_address), said_at_once():
            pool = choose_pool(options.device, options.threads, options.workers)
            gpu = " and a GPU" * pool.gpus
            cpus = f"{pool.cpus} CPU{'s' * (pool.cpus > 1)}{gpu}"
            say(f"Ray: {pool.workers} worker{'s' * (pool.workers > 1)} with {cpus} each")
            yield pool
    except ClusterError as error:
        raise CliError(str(error), FAILED) from error


@contextmanager
def said_at_once() -> Iterator[None]:
    """Prints what ends the run before Ray is left, which may fail, hang or end the process on its own."""
    from ray.exceptions import RayError

    from ..scale.cluster import ClusterError

    try:
        yield
    except CliError as error:
        fail(str(error), error.exit_code)
    except ClusterError as error:
        fail(str(error), FAILED)
    except RayError as error:
        fail(f"Ray: {one_line(error)}", FAILED)
    except OSError as error:
        fail(f"{_place(error)}{error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)


@contextmanager
def told_if_ended(advice: str) -> Iterator[None]:
    """Has another process print a line if this one ends without leaving the context: Ray ends it from C++ where it
    loses the head of the cluster, and nothing here is called then."""
    line = f"ced: Ray or the system ended this process; what is written is in {printable(advice)}"
    script = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
    try:
        watcher = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", script, line],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr.fileno(),
            start_new_session=True,  # Ctrl-C is for this process
        )
    except OSError:  # standard error is no file, or there is no room for a process
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            watcher.communicate(b"left")


def _shard_size(inputs: int, pool: "Pool") -> int:
    least, most = SHARD_INPUTS
    return min(max(ceil(inputs / (pool.workers * SHARDS_PER_WORKER)), least), most)


# The model travels to the nodes, so that all have the same


def _files_of(model: str) -> dict[str, bytes]:
    """The files of a model folder, or of what was loaded of a Hub repository."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model, local_files_only=True))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@dataclass(frozen=True)
class Task:
    """What a worker is told."""

    options: "TagOptions"
    run: str
    weights: str
    model_files: Any  # the object reference of a dictionary
    example: str | None  # a local path among the inputs that is there


def _run(output: "ShardedOutput", options: "TagOptions", pool: "Pool", model_files: dict[str, bytes]) -> RunProgress:
    import ray

    from ..scale.job import run_shards

    waiting = output.waiting()
    total = sum(output.done.get(number, table.num_rows) for number, table in waiting.items())
    worker_options = replace(options, threads=pool.cpus, device="cuda" if pool.gpus else options.device or "cpu")
    assert output.weights is not None
    task = Task(worker_options, output.run, output.weights, ray.put(model_files), _example(waiting))
    deaths: list[str] = []
    with RunProgress(total) as progress:
        try:
            follow(run_shards(waiting, ShardTagger, {"task": task}, pool, deaths.append), output, progress)
        except KeyboardInterrupt as error:
            raise CliError(f"interrupted; {output.advice}", INTERRUPTED) from error
    _check_whole(output, deaths)
    return progress


def follow(rows: Iterable[dict[str, Any]], output: "ShardedOutput", progress: RunProgress) -> None:
    """Counts what workers tell as it comes; raises `CliError` with the first reason to stop."""
    from .tag import print_error

    for row in rows:
        if row["stopped_by"] is not None:
            raise CliError(f"{row['stopped_by']}; {output.advice}", FAILED)
        output.done[row["shard"]] = len(row["failures"])
        progress.add_audio(row["audio_s"])
        for failure in row["failures"]:
            with progress.hidden():
                print_error(failure["file"], failure["error"])
        for index in range(row["inputs"]):
            progress.count(failed=index < len(row["failures"]))


def _check_whole(output: "ShardedOutput", deaths: list[str]) -> None:
    lacking = [number for number in output.shards if number not in output.done]
    if lacking:
        files = output.shards[lacking[0]]["file"]
        raise CliError(
            f"workers died again and again on {len(lacking)} shard{'s' * (len(lacking) > 1)}, the first from"
            f" {files[0]} to {files[-1]}{f' ({deaths[-1][:300]})' if deaths else ''}; {output.advice}, or leave out"
            " what is broken",
            FAILED,
        )


def _example(shards: dict[int, "pyarrow.Table"]) -> str | None:
    from ..scale.storage import is_uri

    for table in shards.values():
        for source in map(os.fsdecode, table["source"].to_pylist()):
            if not is_uri(source) and os.path.exists(source):
                return source
    return None


# On the nodes


class ShardTagger:
    """A worker: holds the model once, tags the inputs of a shard, writes it, and tells what it did."""

    def __init__(self, task: Task) -> None:
        from ..scale.storage import Folder

        assert task.options.output is not None
        self.task = task
        self.folder = Folder(task.options.output)
        self.tagger: AudioTagger | None = None

    def __call__(self, inputs: "pyarrow.Table") -> "pyarrow.Table":
        """
        Args:
            inputs: of one shard.

        Returns:
            One row: the shard, how many inputs it now tagged, the seconds of audio, which failed, and why the whole run
            must stop, or None.
        """
        import pyarrow

        row: dict[str, Any] = {"shard": inputs["shard"][0].as_py(), "inputs": 0, "audio_s": 0.0, "failures": []}
        try:
            row |= self._work(row["shard"], inputs)
        except Exception as error:  # by Ray it would come as pages of traces, and as often as there are shards
            row["stopped_by"] = f"node {_host()}: {_place(error)}{_said(error)}"
        return pyarrow.Table.from_pylist([row], _report_schema())

    def _work(self, number: int, table: "pyarrow.Table") -> dict[str, Any]:
        from .shards import check_run, planned_inputs, read_shard, write_shard
        from .tag import make_records

        options = self.task.options
        check_run(self.folder, self.task.run)
        if self.tagger is None:
            self.tagger = self._load()
        inputs = list(planned_inputs(table))
        before = read_shard(self.folder, number, options.events)
        if [record["file"] for record in before] != [item.name for item in inputs]:
            before = [{"file": item.name, "error": "not tagged yet"} for item in inputs]
        waiting = [item for item, record in zip(inputs, before, strict=True) if "error" in record]
        seconds: list[float] = []
        tagged = make_records(self.tagger, waiting, options, seconds.append)
        records = [next(tagged) if "error" in record else record for record in before]
        failures = [record for record in records if "error" in record]
        for failure in failures:
            _check_disk(failure["error"])
        _check_access(records)
        write_shard(self.folder, number, records, options.events)
        return {"inputs": len(waiting), "audio_s": sum(seconds), "failures": failures}

    def _load(self) -> "AudioTagger":
        import ray

        from ..scale.storage import Folder
        from .tag import load

        example = self.task.example
        if example is not None and not os.path.exists(example):
            raise CliError(f"{example} is not there: local paths must be the same on all nodes, or use URIs")
        with TemporaryDirectory(prefix="ced-model-") as folder:
            for name, content in ray.get(self.task.model_files).items():
                Folder(folder).write(name, content)  # which tells where there is no room
            tagger = load(replace(self.task.options, model=folder))
        if tagger.fingerprint != self.task.weights:
            raise CliError("the model became another one on its way to this node")
        return tagger


def _check_disk(reason: str) -> None:
    """A disk without room for temporary files is not the fault of an input, and would fail all that come."""
    for number in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(number) in reason:
            raise OSError(number, os.strerror(number))


def _check_access(records: list[Record]) -> None:
    """A node that a store does not let in, or that does not reach it, would fail all inputs that come."""
    reasons = [record.get("error", "") for record in records]
    if len(reasons) > 1 and all(any(sign in reason for sign in NO_ACCESS) for reason in reasons):
        raise CliError(f"{records[0]['file']}: {reasons[0]}; does this node have the credentials for it?", FAILED)


def _place(error: Exception) -> str:
    return f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""


def _said(error: Exception) -> str:
    from ..scale.storage import one_line as reason_of

    kind = "" if isinstance(error, (OSError, CliError)) else f"{type(error).__name__}: "
    return f"{kind}{reason_of(error)}"


def _host() -> str:
    import ray

    return ray.util.get_node_ip_address()


def _report_schema() -> "pyarrow.Schema":
    import pyarrow

    failure = pyarrow.struct([("file", pyarrow.string()), ("error", pyarrow.string())])
    return pyarrow.schema(
        [
            ("shard", pyarrow.int32()),
            ("inputs", pyarrow.int32()),
            ("audio_s", pyarrow.float64()),
            ("failures", pyarrow.list_(failure)),
            ("stopped_by", pyarrow.string()),
        ]
    )
