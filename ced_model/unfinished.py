# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
What an interrupted run has done so far: `OUTPUT.journal`, a line of JSON for each input, written when it is ready.

The first line names the options and the model. One process at a time writes to it.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from typing import Any

from .journal import open_locked
from .messages import OptionError, RunError, UsageError

Entry = dict[str, Any]


class Unfinished:
    """
    The entries of an output that is not finished yet, in a context that closes the file.

    Args:
        output: What the run makes.
        header: What must be the same when it is resumed.
        resume: Take up the entries that are there.
        overwrite: Discard them.

    Raises:
        UsageError: if there are entries that are neither resumed nor discarded, or were made otherwise.
        RunError: if another run writes to it.
    """

    def __init__(
        self, output: str, header: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self.path = f"{output}.journal"
        self.offsets: dict[str, tuple[int, int]] = {}  # where the entry of each input is, and its length
        self.header: Entry = json.loads(json.dumps(header))
        if os.path.lexists(self.path) and not (resume or overwrite):
            raise UsageError(f"{self.path} holds the results of an unfinished run: resume or overwrite it")
        self._file: FileIO = open_locked(self.path, os.O_RDWR | os.O_CREAT)
        try:
            if resume:
                self._read()
            else:
                self._file.truncate(0)
            if not self._size():
                self._write(self.header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Unfinished":
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self.offsets

    def __getitem__(self, name: str) -> Entry:
        offset, length = self.offsets[name]
        self._file.seek(offset)
        return json.loads(self._file.read(length))

    def _size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def _read(self) -> None:
        """Notes the lines that are there; a last one that was not written to its end is cut off."""
        offset = 0
        with open(self.path, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                except ValueError as error:
                    raise UsageError(f"{self.path} is damaged: remove or overwrite it") from error
                if offset:
                    self.offsets[entry["file"]] = (offset, len(line))
                else:
                    self.check(entry, self.path)
                offset += len(line)
        self._file.truncate(offset)

    def check(self, then: Any, path: str) -> None:
        """Raises a `UsageError` if results at `path`, which were begun with another header, cannot be continued."""
        now = self.header
        if not isinstance(then, dict) or then.get("ced") != now["ced"]:
            raise UsageError(f"{path} belongs to another kind of run: remove or overwrite it")
        if then.get("weights") != now["weights"]:
            raise UsageError(f"{path} was begun with another model, {then.get('model')}: use that, or overwrite it")
        for name in [name for name in {**now, **then} if name != "model"]:
            if then.get(name) != now.get(name):
                before = "not given" if then.get(name) is None else then[name]
                raise OptionError(name, now.get(name), f"{before}, as when {path} was begun; or overwrite it")

    def add(self, entry: Entry) -> None:
        """Keeps the entry of the input that its `file` names."""
        offset = self._size()  # the end, where writing continues
        self.offsets[entry["file"]] = (offset, self._write(entry))

    def _write(self, entry: Entry) -> int:
        line = memoryview(json.dumps(entry).encode() + b"\n")
        length = len(line)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise RunError(f"{self.path}: {error.strerror}; {self.advice}") from error
        return length

    @property
    def advice(self) -> str:
        """Where the results are after an interruption."""
        return f"{len(self.offsets)} results so far in {self.path}: resume to continue"

    def remove(self) -> None:
        """The output is there."""
        with suppress(OSError):
            os.unlink(self.path)
