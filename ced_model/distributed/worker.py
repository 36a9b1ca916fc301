# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A worker on a node: shards of inputs → shards of records."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import ray

from ..messages import RunError
from ..records import Record, has_times, make_records
from ..storage import Folder, reason_of
from ..tagger import AudioTagger
from .shards import check_run, planned_inputs, read_shard, write_shard

NO_ACCESS = ("ACCESS_DENIED", "NETWORK_CONNECTION", "credentials")  # in PyArrow's messages about a store


@dataclass(frozen=True)
class Task:
    """
    The task of a worker.

    Attributes:
        output: The folder of the results.
        run: The name of the run in it.
        made_by: The model and what computes it, as it is stored with results.
        model_files: The object reference of a dictionary with the model's files.
        computing: Keyword arguments of `AudioTagger`.
        options: Keyword arguments of `AudioTagger.tag` or `.events`.
        events: Whether to find events.
        example: A local path among the inputs that exists.
    """

    output: str
    run: str
    made_by: dict[str, str]
    model_files: Any
    computing: dict[str, Any]
    options: dict[str, Any]
    kind: str
    example: str | None


class ShardTagger:
    """Holds the model once, tags the inputs of a shard, writes it, and reports."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.folder = Folder(task.output)
        self.model_folder = TemporaryDirectory(prefix="ced-model-")  # engines read it as long as they work
        self.tagger: AudioTagger | None = None

    def __call__(self, inputs: pyarrow.Table) -> pyarrow.Table:
        """
        Args:
            inputs: of one shard.

        Returns:
            One row: the shard, how many inputs it tagged now, the seconds of audio, which failed, and why the whole run
            must stop, or None.
        """
        row: dict[str, Any] = {"shard": inputs["shard"][0].as_py(), "inputs": 0, "audio_s": 0.0, "failures": []}
        try:
            row |= self._work(row["shard"], inputs)
        except Exception as error:  # by Ray it would come as pages of traces, and as often as there are shards
            row["stopped_by"] = f"node {ray.util.get_node_ip_address()}: {_message(error)}"
        return pyarrow.Table.from_pylist([row], REPORT)

    def _work(self, number: int, table: pyarrow.Table) -> dict[str, Any]:
        task = self.task
        check_run(self.folder, task.run)
        if self.tagger is None:
            self.tagger = self._load()
        inputs = list(planned_inputs(table))
        before = read_shard(self.folder, number, task.kind)
        if [record["file"] for record in before] != [item.name for item in inputs]:
            before = [{"file": item.name, "error": "not tagged yet"} for item in inputs]
        waiting = [item for item, record in zip(inputs, before, strict=True) if "error" in record]
        seconds: list[float] = []
        tagged = make_records(self.tagger, waiting, task.options, kind=task.kind, on_audio=seconds.append)
        records = [next(tagged) if "error" in record else record for record in before]
        failures = [record for record in records if "error" in record]
        for failure in failures:
            _check_disk(failure["error"])
        _check_access(records)
        write_shard(self.folder, number, records, task.kind, task.made_by, has_times(task.options))
        return {"inputs": len(waiting), "audio_s": sum(seconds), "failures": failures}

    def _load(self) -> AudioTagger:
        example = self.task.example
        if example is not None and not os.path.exists(example):
            raise RunError(f"{example} does not exist on this node: use paths that are the same on all nodes, or URIs")
        for name, content in ray.get(self.task.model_files).items():
            Folder(self.model_folder.name).write(name, content)  # names the file if there is no room
        tagger = AudioTagger(Path(self.model_folder.name), **self.task.computing)
        if tagger.fingerprint != self.task.made_by["weights"]:
            raise RunError("the model on this node differs from the one that was sent")
        return tagger


def _check_disk(reason: str) -> None:
    """A disk without room for temporary files is not the fault of an input, and would fail all that follow."""
    for number in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(number) in reason:
            raise OSError(number, os.strerror(number))


def _check_access(records: list[Record]) -> None:
    """A node without access to a store, or without a connection to it, would fail all inputs that follow."""
    reasons = [record.get("error", "") for record in records]
    if len(reasons) > 1 and all(any(sign in reason for sign in NO_ACCESS) for reason in reasons):
        raise RunError(f"{records[0]['file']}: {reasons[0]}; does this node have the credentials for it?")


def _message(error: Exception) -> str:
    place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    kind = "" if isinstance(error, (OSError, RunError)) else f"{type(error).__name__}: "
    return f"{place}{kind}{reason_of(error)}"


REPORT = pyarrow.schema(
    {
        "shard": pyarrow.int32(),
        "inputs": pyarrow.int32(),
        "audio_s": pyarrow.float64(),
        "failures": pyarrow.list_(pyarrow.struct([("file", pyarrow.string()), ("error", pyarrow.string())])),
        "stopped_by": pyarrow.string(),
    }
)
