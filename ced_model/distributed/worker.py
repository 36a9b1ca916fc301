# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A worker on a node: tags a shard of inputs, and writes the shard of records."""

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

NO_ACCESS = ("ACCESS_DENIED", "NETWORK_CONNECTION", "credentials")  # parts of PyArrow's messages about object stores


@dataclass(frozen=True)
class Task:
    """
    The task of a worker.

    Attributes:
        output: The folder of the results.
        run: The id of the run.
        made_by: Model, weights, engine and compute type, to store with the results.
        model_files: A Ray object reference to a dictionary of the model's files.
        computing: Keyword arguments of `AudioTagger`.
        options: Keyword arguments of `AudioTagger.tag` or `.events`.
        events: Whether to find events.
        example: A local path of an input, which must exist.
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
    """Tags shards with a model that is loaded once."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.folder = Folder(task.output)
        self.model_folder = TemporaryDirectory(prefix="ced-model-")  # engines read it until they are closed
        self.tagger: AudioTagger | None = None

    def __call__(self, inputs: pyarrow.Table) -> pyarrow.Table:
        """
        Tags the inputs of a shard and writes their records.

        Args:
            inputs: The inputs of one shard.

        Returns:
            One row: the shard, the number of inputs tagged now, seconds of audio, failed inputs, and the reason to stop
            the run, or None.
        """
        row: dict[str, Any] = {"shard": inputs["shard"][0].as_py(), "inputs": 0, "audio_s": 0.0, "failures": []}
        try:
            row |= self._work(row["shard"], inputs)
        except Exception as error:  # Ray would print long tracebacks, for each shard
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
            Folder(self.model_folder.name).write(name, content)  # its errors name the file, such as for a full disk
        tagger = AudioTagger(Path(self.model_folder.name), **self.task.computing)
        if tagger.fingerprint != self.task.made_by["weights"]:
            raise RunError("the model on this node differs from the one that was sent")
        return tagger


def _check_disk(reason: str) -> None:
    """Raises an error for a full disk of temporary files, where all following inputs would fail."""
    for number in (errno.ENOSPC, errno.EDQUOT):
        if os.strerror(number) in reason:
            raise OSError(number, os.strerror(number))


def _check_access(records: list[Record]) -> None:
    """Raises an error if the node has no access to the store, where all following inputs would fail."""
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
