# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
The results of an interrupted run: `OUTPUT.journal`, with one line of JSON per input, written when it is ready.

The first line has the options and the model. Only one process at a time writes to it. If the process is killed, at most
the last, incomplete line is lost.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from .messages import RunError, UsageError
from .output import lock_on_windows
from .records import REPLACING, check_same_maker, check_same_options
from .writers.json import json_line, parse_json

Entry = dict[str, Any]
SUFFIX = ".journal"
MAX_LINE = 2**31  # bytes; a timeline of all classes has 50 MB an hour


class Lines:
    """
    A locked file with one entry per input.

    Attributes:
        path: Its path.
        offsets: Position of the last entry of each input.
        size: The end of the lines that were read or written.
        replacing: How to discard the results, for messages.
    """

    replacing = REPLACING

    def __init__(self, path: str) -> None:
        self.path = path
        self.offsets: dict[str, int] = {}
        self.size = 0
        self._file: FileIO | None = None

    def open(self, flags: int) -> None:
        try:
            self._file = open_locked(self.path, flags)
        except OSError as error:
            error.filename = self.path.removesuffix(SUFFIX)  # the name that the user gave
            raise

    def read_lines(self) -> Iterator[tuple[Any, int]]:
        """The existing entries, including the header, and their lengths."""
        with self._reader() as file:
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                try:
                    entry = parse_json(line)
                except ValueError as error:
                    raise self.damaged() from error
                yield entry, len(line)
            if len(line) == MAX_LINE:  # otherwise the run was killed while writing it
                raise self.damaged()

    def damaged(self) -> UsageError:
        return UsageError(f"{self.path} is damaged: remove it or {self.replacing}")

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
        """Removes an incomplete last line."""
        assert self._file is not None
        self._file.truncate(self.size)

    def write(self, entry: Entry) -> int:
        """Appends an entry, and returns its position."""
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
        """How to continue after an interruption, for messages."""
        count = f"{len(self.offsets)} result{'s' * (len(self.offsets) != 1)}"
        return f"{count} so far in {self.path}: continue with `resume=True`"

    def remove(self) -> None:
        """Removes and closes the file after the output was written."""
        try:
            os.unlink(self.path)  # while it is locked, so that it is not the file of another run
        except PermissionError:  # Windows: it must be closed first
            self.close()
            os.unlink(self.path)
        self.close()

    def _reader(self) -> BinaryIO:
        """The locked file, even if another file has its name now."""
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
    The entries of an unfinished output; a context manager that closes the file.

    Args:
        output: The output of the run.
        header: Options that must be the same when it is resumed.
        resume: Continue with existing entries.
        overwrite: Discard existing entries; None if the command has no such option.

    Raises:
        UsageError: if there are entries that are neither resumed nor discarded, or have another header.
        RunError: if another run writes to the file.
    """

    def __init__(
        self, output: str, header: Mapping[str, Any], *, resume: bool = False, overwrite: bool | None = False
    ) -> None:
        super().__init__(f"{output}{SUFFIX}")
        if overwrite is None:
            self.replacing = "choose another output"
        self.header: Entry = json.loads(json.dumps(header))
        if not (resume or overwrite):
            check_finished(output, self.replacing)
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
        """Raises a `UsageError` if the header `then` of the results at `path` differs."""
        if not isinstance(then, dict) or then.get("ced") != self.header["ced"]:
            raise UsageError(f"{path} belongs to another kind of run: remove it or {self.replacing}")
        check_same_maker(path, then, self.header, self.replacing)
        earlier, now = ({**header, "model": None} for header in (then, self.header))
        check_same_options(path, earlier, now, self.replacing)

    def add(self, entry: Entry) -> None:
        """Stores the entry of the input given by its `file`."""
        self.offsets[entry["file"]] = self.write(entry)


def check_finished(output: str, replacing: str = REPLACING) -> None:
    """Raises a `UsageError` if there are results of an unfinished run."""
    if os.path.lexists(path := f"{output}{SUFFIX}"):
        raise UsageError(f"{path} has the results of an unfinished run: use `resume=True`, or {replacing}")


def _lock(file: FileIO) -> None:
    try:
        import fcntl
    except ImportError:
        lock_on_windows(file.fileno())
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_locked(path: str | Path, flags: int) -> FileIO:
    """Opens a journal, and locks it if the file system has locks."""
    if os.path.lexists(path) and not os.path.isfile(path):
        raise UsageError(f"{path}: not a regular file")
    while True:
        file = FileIO(os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666), "r+")
        try:
            _lock(file)
        except BlockingIOError as error:
            file.close()
            raise RunError(f"{path} is in use by another run: wait until it ends, or choose another output") from error
        except (ImportError, OSError):  # no locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # the run that had locked it has finished and removed it
