# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
What an interrupted run has done so far: `OUTPUT.journal`, a line of JSON for each input, written when it is ready.

The first line names the options and the model. One process at a time writes to it. However the process ends, at most
an incomplete last line is lost.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from .messages import RunError, UsageError
from .records import check_same_maker, check_same_options
from .writers.json import json_line, parse_json

Entry = dict[str, Any]
MAX_LINE = 2**31  # bytes; a timeline of all classes has 50 MB an hour


class Lines:
    """
    A locked file of entries, one of each input.

    Attributes:
        path: Its path.
        offsets: Where the last entry of each input is.
        size: The end of what was read or written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.offsets: dict[str, int] = {}
        self.size = 0
        self._file: FileIO | None = None

    def open(self, flags: int) -> None:
        self._file = open_locked(self.path, flags)

    def read_lines(self) -> Iterator[tuple[Any, int]]:
        """The entries that are there, the header included, and their lengths."""
        with self._reader() as file:
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                try:
                    entry = parse_json(line)
                except ValueError as error:
                    raise self.damaged() from error
                yield entry, len(line)
            if len(line) == MAX_LINE:  # else it was killed while writing it
                raise self.damaged()

    def damaged(self) -> UsageError:
        return UsageError(f"{self.path} is damaged: remove or overwrite it")

    def entry(self, name: str) -> Entry:
        """The last entry of an input."""
        return next(self.entries([name]))

    def entries(self, names: Iterable[str]) -> Iterator[Entry]:
        """The last entries of inputs."""
        with self._reader() as file:
            for name in names:
                file.seek(self.offsets[name])
                yield json.loads(file.readline())

    def cut_off(self) -> None:
        """Removes what is behind the last complete line."""
        assert self._file is not None
        self._file.truncate(self.size)

    def write(self, entry: Entry) -> int:
        """Writes an entry at the end, and returns where it begins."""
        assert self._file is not None
        line = memoryview(json_line(entry))
        offset, end = self.size, self.size + len(line)
        try:
            self._file.seek(offset)
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise RunError(f"{self.path}: {error.strerror}; {self.advice}") from error
        self.size = end
        return offset

    @property
    def advice(self) -> str:
        """Where the results are after an interruption."""
        count = f"{len(self.offsets)} result{'s' * (len(self.offsets) != 1)}"
        return f"{count} so far in {self.path}: --resume continues"

    def remove(self) -> None:
        """Removes the file, since the output is there, and closes it."""
        try:
            os.unlink(self.path)  # while it is locked: what another run finds here afterwards is its own
        except PermissionError:  # Windows, where it must be closed before
            self.close()
            os.unlink(self.path)
        self.close()

    def _reader(self) -> BinaryIO:
        """The locked file, even if another one has its name now."""
        assert self._file is not None
        reader = open(os.dup(self._file.fileno()), "rb")
        reader.seek(0)
        return reader

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Unfinished(Lines):
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
        super().__init__(f"{output}.journal")
        self.header: Entry = json.loads(json.dumps(header))
        if os.path.lexists(self.path) and not (resume or overwrite):
            raise UsageError(f"{self.path} holds the results of an unfinished run: add --resume or --overwrite")
        self.open(os.O_RDWR | os.O_CREAT)
        try:
            for entry, length in self.read_lines() if resume else ():
                if not self.size:
                    self.check(entry, self.path)
                elif isinstance(entry, dict) and isinstance(entry.get("file"), str):
                    self.offsets[entry["file"]] = self.size
                else:
                    raise self.damaged()
                self.size += length
            self.cut_off()
            if not self.size:
                self.write(self.header)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Unfinished":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name in self.offsets

    def check(self, then: Any, path: str) -> None:
        """Raises a `UsageError` if results at `path`, which were begun with another header, cannot be continued."""
        if not isinstance(then, dict) or then.get("ced") != self.header["ced"]:
            raise UsageError(f"{path} belongs to another kind of run: remove or overwrite it")
        check_same_maker(path, then, self.header)
        check_same_options(path, *({**header, "model": None} for header in (then, self.header)))

    def add(self, entry: Entry) -> None:
        """Keeps the entry of the input that its `file` names."""
        self.offsets[entry["file"]] = self.write(entry)


def open_locked(path: str | Path, flags: int) -> FileIO:
    """Opens a journal, so that no second process can while this one runs (where the system has such locks)."""
    if os.path.lexists(path) and not os.path.isfile(path):
        raise UsageError(f"{path}: not a regular file")
    while True:
        file = FileIO(os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666), "r+")
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise RunError(f"{path}: another run is writing to it") from error
        except (ImportError, OSError):  # Windows, or a file system without locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # the run that had it locked finished and removed it
