# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
The journal of an unfinished output: `FILE.journal` beside it.

Its first line holds the options, the second one tells the weights, and each further line is the record of one input,
written at once when it is ready. Only when all inputs are there does the output itself appear, in one step, and the
journal goes. So whatever ends the process, nothing is lost but a last line that was not written to its end, and an
output is never half a result.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO
from typing import Any

from .errors import FAILED, CliError
from .formats import Format, Record, json_line, read_records, write_records

VERSION = 1


class Journal:
    """
    The records of an output so far.

    Args:
        output: the file that will hold them.
        options: what must be the same for all records, as it can be stored in json.
    """

    def __init__(self, output: str, options: dict[str, Any]) -> None:
        self.output = os.path.realpath(output)  # replacing a link's target, not the link
        self.path = f"{self.output}.journal"
        self.options = json.loads(json.dumps(options))
        self.weights: str | None = None
        self.offsets: dict[str, int] = {}  # where the last record of each input is
        self.failed: set[str] = set()
        self.size = 0
        self.is_finished = False
        self._file: FileIO | None = None
        self._check_place()

    def _check_place(self) -> None:
        parent = os.path.dirname(self.output)
        if not os.path.isdir(parent):
            raise CliError(f"--output {self.output}: there is no folder {parent}")
        if os.path.lexists(self.output) and not os.path.isfile(self.output):
            raise CliError(f"--output {self.output}: not a regular file")

    def __contains__(self, name: str) -> bool:
        """Whether an input needs no further work: those that failed are tried again."""
        return name in self.offsets and name not in self.failed

    def refuse_existing(self) -> None:
        """Raises `CliError` if there are results already."""
        if os.path.exists(self.path):
            raise CliError(f"{self.path} holds the results of an unfinished run: add --resume or --overwrite")
        if os.path.exists(self.output):
            raise CliError(f"{self.output} exists: add --resume to keep its results, or --overwrite")

    def load(self) -> None:
        """
        Takes up what an unfinished or, failing that, a finished run left. Nothing is written yet.

        Raises:
            CliError: if it was made with other options or by another program, or another run is at work on it.
        """
        if os.path.exists(self.path):
            self._file = _open_locked(self.path)
            self._read_journal()
        if not self.size and os.path.exists(self.output):
            self.is_finished = True
            for record in self._read_output():
                self._note(record, 0)

    def _read_output(self) -> Iterator[Record]:
        return read_records(self.output, Format(self.options["format"]), bool(self.options["events"]))

    def _read_journal(self) -> None:
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):  # killed while writing it
                    break
                entry = self._parsed(line)
                if not self.size:
                    self._check_header(entry)
                if "file" in entry:
                    self._note(entry, len(line))
                else:
                    self.weights = entry.get("weights", self.weights)
                    self.size += len(line)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        with suppress(ValueError):
            if isinstance(entry := json.loads(line), dict):
                return entry
        raise CliError(f"{self.path} is damaged: remove it or add --overwrite")

    def _check_header(self, header: dict[str, Any]) -> None:
        if header.get("ced_journal") != VERSION:
            raise CliError(f"{self.path} is not a journal of this version of ced: remove it or add --overwrite")
        check_same_options(self.path, header["options"], self.options)

    def _note(self, record: Record, length: int) -> None:
        name = record["file"]
        self.offsets[name] = self.size
        self.failed.discard(name)
        if "error" in record:
            self.failed.add(name)
        self.size += length

    def begin(self, weights: str) -> None:
        """
        Makes ready to append results of a model with these weights.

        Raises:
            CliError: if the results so far are of other weights.
        """
        if self.weights not in (None, weights):
            raise CliError(
                f"{self.path} was begun with another model of this name: resume with the same, or add --overwrite"
            )
        if self.is_finished:
            self._import_output()
        if self._file is None:
            self._file = _open_locked(self.path)
        self._file.truncate(self.size)
        self._file.seek(self.size)
        if not self.size:
            self._append({"ced_journal": VERSION, "options": self.options})
        if self.weights is None:
            self._append({"weights": weights})
            self.weights = weights

    def _import_output(self) -> None:
        """The finished output becomes a journal again."""
        part = f"{self.path}.part"
        self.offsets.clear()
        with open(part, "wb") as file:
            self.size = file.write(json_line({"ced_journal": VERSION, "options": self.options}))
            for record in self._read_output():
                self._note(record, file.write(json_line(record)))
        if self._file is not None:  # of an empty journal
            self._file.close()
            self._file = None
        os.replace(part, self.path)
        self.is_finished = False

    def append(self, record: Record) -> None:
        offset = self.size
        self._append(record)
        self.size = offset
        self._note(record, len(json_line(record)))

    def _append(self, entry: dict[str, Any]) -> None:
        assert self._file is not None
        line = memoryview(json_line(entry))
        self.size += len(line)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise CliError(f"{self.path}: {error.strerror}; {self.advice}", FAILED) from error

    @property
    def advice(self) -> str:
        """What to do after an interruption."""
        count = f"{len(self.offsets)} result{'s' * (len(self.offsets) != 1)}"
        return f"{count} so far in {self.path}: go on with --resume"

    def finish(self, names: Iterable[str]) -> None:
        """Writes the output: inputs of earlier runs that are not among `names`, then `names` in their order."""
        names = list(names)
        given = set(names)
        order = [name for name in self.offsets if name not in given] + names
        part = f"{self.output}.part"
        try:
            with open(part, "wb") as file:
                write_records(self._records(order), file, Format(self.options["format"]), bool(self.options["events"]))
                os.fsync(file.fileno())
            os.replace(part, self.output)
        except OSError as error:
            with suppress(OSError):
                os.unlink(part)
            raise CliError(f"{self.output}: {error.strerror or error}; {self.advice}", FAILED) from error
        self.close()
        os.unlink(self.path)

    def _records(self, names: Iterable[str]) -> Iterator[Record]:
        with open(self.path, "rb") as file:
            for name in names:
                file.seek(self.offsets[name])
                yield json.loads(file.readline())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def check_same_options(path: str, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises `CliError` for the first option that is not what it was when the results of `path` were begun."""
    for name, value in now.items():
        if then.get(name) != value:
            raise CliError(
                f"{path} was begun with another --{name}: {_shown(then.get(name))} then, {_shown(value)} now;"
                " resume with the same, or add --overwrite"
            )


def _open_locked(path: str) -> FileIO:
    """Opens a journal, so that no second process can while this one runs (where the system has such locks)."""
    file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CliError(f"{path}: another run is writing to it", FAILED) from error
    except (ImportError, OSError):  # Windows, or a file system without locks
        pass
    return file


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
