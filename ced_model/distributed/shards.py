# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
A folder of results in shards, for jobs on several machines.

`_ced/run.json` has the options. `_ced/inputs-N.parquet` assigns inputs to shards before any is tagged.
`part-N.parquet` is created in one step when all inputs of shard N are tagged. So a shard has the same content if it is
written twice, by a worker that was believed dead or by two runs, and inputs without a shard have not been tagged.
Readers of folders of Parquet files (Arrow, Spark, Ray, pandas) ignore names that begin with `_` or a dot.
"""

import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..input_list import Input
from ..messages import OptionError, RunError, UsageError
from ..records import Record, check_same_maker, check_same_options
from ..storage import Folder, RemoteFile, is_uri
from ..writers import Format, read_records, write_records

if TYPE_CHECKING:
    import pyarrow

VERSION = 1
STATE = "_ced"
RUN = f"{STATE}/run.json"
CONNECTIONS = 16  # simultaneous reads of written shards


class ShardedOutput:
    """
    The shards of an output. Methods raise the `OSError` of the file system.

    Args:
        output: Path or URI of the folder.
        options: Options that must be the same for all records, in JSON types.
    """

    def __init__(self, output: str, options: dict[str, Any]) -> None:
        self.output = output
        self.folder = Folder(output)
        self.options = json.loads(json.dumps(options))
        self.run = ""  # random id of the run, to detect another run in the same folder
        self.made_by: dict[str, str] = {}  # model, weights, engine and compute type
        self.shards: dict[int, pyarrow.Table] = {}
        self.done: dict[int, int] = {}  # number of failed inputs of each written shard
        self.plans = 0

    def refuse_existing(self) -> None:
        """Raises a `UsageError` if the folder has results or other files."""
        if "run.json" in self.folder.list(STATE):
            raise UsageError(f"{self.output} contains results: use `resume=True` or `overwrite=True`")
        if other := sorted(self.folder.list()):
            raise OptionError("output", self.output, f"a new folder; this one has other files, such as {other[0]}")

    def clear(self) -> None:
        """Removes existing results, and no other files."""
        if "run.json" not in self.folder.list(STATE):
            self.refuse_existing()
            return
        self.folder.remove(RUN)  # first, which stops workers of another run
        names = [f"{STATE}/{name}" for name in self.folder.list(STATE)]
        names += [name for name in self.folder.list() if name.startswith("part-") and name.endswith(".parquet")]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self.folder.remove, names))

    def load(self) -> None:
        """
        Reads the state of an earlier run, if there is one.

        Raises:
            UsageError: if it has other options, or is of another version.
        """
        if "run.json" not in self.folder.list(STATE):
            self.refuse_existing()
            return
        path = f"{self.output}/{RUN}"
        try:
            header = json.loads(self.folder.read(RUN))
            if header["ced_shards"] != VERSION:
                raise ValueError("another version")
            self.run, self.made_by = header["run"], dict(header["made_by"])
            if not isinstance(self.run, str) or not isinstance(self.made_by["weights"], str):
                raise ValueError("run id or weights are missing")
            options = dict(header["options"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{path} is from another version of ced: use `overwrite=True`") from error
        check_same_options(path, options, self.options)
        self._load_plans()
        there = self.folder.list()
        written = [number for number in self.shards if shard_name(number) in there]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            failed = dict(zip(written, pool.map(self._failed_in, written), strict=True))
        self.done = {number: count for number, count in failed.items() if count is not None}

    def _load_plans(self) -> None:
        import numpy as np
        from pyarrow import parquet

        for name in sorted(name for name in self.folder.list(STATE) if name.endswith(".parquet")):
            self.plans += 1
            try:
                with self.folder.open(f"{STATE}/{name}") as file:
                    table = parquet.read_table(file)
                if not table.schema.equals(_plan_schema()) or table["shard"].null_count or table["file"].null_count:
                    raise ValueError("not a plan")
                numbers = table["shard"].to_numpy()
            except ValueError as error:
                raise UsageError(f"{self.output}/{STATE}/{name} is damaged: use `overwrite=True`") from error
            # The inputs of a shard are next to each other.
            starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
            for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
                self.shards[int(numbers[start])] = table.slice(start, end - start)

    def _failed_in(self, number: int) -> int | None:
        """The number of failed inputs of a written shard, from its Parquet statistics; None if it is damaged."""
        from pyarrow import parquet

        try:
            with self.folder.open(shard_name(number)) as file:
                metadata = parquet.read_metadata(file)
            column = metadata.schema.names.index("error")
            groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
            return sum(group.num_rows - group.column(column).statistics.null_count for group in groups)
        except (ValueError, AttributeError):
            return None
        except OSError as error:  # Parquet's own errors have no errno
            if error.errno is not None:
                raise
            return None

    def begin(self, made_by: dict[str, str]) -> None:
        """
        Writes `run.json`.

        Args:
            made_by: The `model`, the checksum of its `weights`, the `engine` and the `compute_type`.

        Raises:
            UsageError: if they differ from those of the existing results.
        """
        if self.made_by:
            check_same_maker(self.output, self.made_by, made_by)
            return
        self.made_by, self.run = made_by, uuid.uuid4().hex
        header = {"ced_shards": VERSION, "run": self.run, "made_by": made_by, "options": self.options}
        self._write_new(RUN, json.dumps(header, indent=1).encode())

    def unplanned(self, inputs: Iterable[Input]) -> list[Input]:
        """The inputs without a shard."""
        planned: set[str] = set()
        for table in self.shards.values():
            planned.update(table["file"].to_pylist())
        return [item for item in inputs if item.name not in planned]

    def plan(self, inputs: list[Input], shard_size: int) -> None:
        """Assigns inputs to new shards of at most `shard_size` inputs."""
        if not inputs:
            return
        from pyarrow import Table, concat_tables, parquet

        first = max(self.shards, default=-1) + 1
        new: dict[int, pyarrow.Table] = {}
        for start in range(0, len(inputs), shard_size):
            number = first + len(new)
            rows = [_planned(number, item) for item in inputs[start : start + shard_size]]
            new[number] = Table.from_pylist(rows, _plan_schema())
        buffer = io.BytesIO()
        parquet.write_table(concat_tables(new.values()), buffer)
        self._write_new(f"{STATE}/inputs-{self.plans:06d}.parquet", buffer.getvalue())
        self.plans += 1
        self.shards |= new

    def _write_new(self, name: str, content: bytes) -> None:
        """Writes a new file. Raises a `RunError` if another run has written it in the meantime."""
        try:
            self.folder.write(name, content, replace=False)
        except FileExistsError as error:
            raise RunError(f"{self.output}: another run has started there in the meantime: resume it") from error

    def waiting(self) -> dict[int, "pyarrow.Table"]:
        """Shards that are missing or have failed inputs."""
        return {number: table for number, table in self.shards.items() if self.done.get(number) != 0}

    @property
    def kept(self) -> int:
        """The number of inputs that are tagged."""
        return sum(self.shards[number].num_rows - failed for number, failed in self.done.items())

    @property
    def advice(self) -> str:
        """Where the results are after an interruption."""
        return f"{len(self.done)} of {len(self.shards)} shards are in {self.output}: continue with `resume=True`"


def shard_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _plan_schema() -> "pyarrow.Schema":
    import pyarrow

    columns = {
        "shard": pyarrow.int32(),
        "file": pyarrow.string(),
        "source": pyarrow.binary(),
        "error": pyarrow.string(),
    }
    return pyarrow.schema(list(columns.items()))


def _planned(number: int, item: Input) -> dict[str, Any]:
    source = item.source if is_uri(item.source) else os.path.abspath(item.source)
    return {"shard": number, "file": item.name, "source": os.fsencode(source), "error": item.error}


def planned_inputs(table: "pyarrow.Table") -> Iterator[Input]:
    """The inputs of a shard."""
    for row in table.to_pylist():
        source: Any = os.fsdecode(row["source"])
        if is_uri(source):
            source = RemoteFile(source)
        yield Input(row["file"], source, row["error"])


def read_shard(folder: Folder, number: int, kind: str) -> list[Record]:
    """The records of a shard; empty if it is missing or damaged."""
    try:
        content = io.BytesIO(folder.read(shard_name(number)))
        return list(read_records(content, Format.PARQUET, kind))
    except (FileNotFoundError, UsageError):
        return []


def write_shard(
    folder: Folder, number: int, records: Iterable[Record], kind: str, made_by: Mapping[str, str], has_times: bool
) -> None:
    buffer = io.BytesIO()
    write_records(records, buffer, Format.PARQUET, kind, made_by=made_by, has_times=has_times)
    folder.write(shard_name(number), buffer.getvalue())


def check_run(folder: Folder, run: str) -> None:
    """Raises a `RunError` unless the folder is that of this run."""
    try:
        if json.loads(folder.read(RUN))["run"] == run:
            return
        reason = "another run has started there in the meantime"
    except FileNotFoundError:
        reason = "this node has another folder at this path: use one that all nodes share, such as s3://…"
    raise RunError(f"{folder.uri}: {reason}")
