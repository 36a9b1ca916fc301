# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
The journal of an unfinished output: `FILE.journal` beside it.

Its first line holds the options, the second one the model, its weights' checksum, the engine and the compute type, and
each further line is the record of one input, written as soon as it is ready. The output itself appears in one step when
all inputs are done, and the journal is removed. However the process ends, at most an incomplete last line is
lost, and the output is never incomplete.

A run locks its journal before it reads it, until after it has removed it. An output that appeared or changed after the
run began is not replaced.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from .messages import OptionError, RunError, UsageError
from .output import new_file, put_file, remove_abandoned, temporary_name
from .records import Record, check_record, check_same_maker, check_same_options, has_times
from .writers import EVENT_FORMATS, Format, read_records, write_records
from .writers.event_files import EventFiles
from .writers.json import json_line, parse_json
from .writers.wide import classes_of

VERSION = 1
MAX_LINE = 2**31  # bytes; a timeline of all classes has 50 MB an hour


class Journal:
    """
    The records of an output so far.

    Args:
        output: the file that will hold them.
        options: what must be the same for all records, as it can be stored in json.
        folders: for an output of one file a recording, the folders of the recordings.
    """

    def __init__(self, output: str, options: dict[str, Any], folders: Sequence[str] = ()) -> None:
        self.output = os.path.realpath(output)  # replacing a link's target, not the link
        self.path = f"{self.output}.journal"
        self.options = json.loads(json.dumps(options))
        self._format, self._events = Format(options["format"]), bool(options["events"])
        self._spreadsheet_safe = bool(options.get("spreadsheet_safe"))
        self._wide = str(options.get("wide", ""))
        self.event_files: EventFiles | None = None
        if self._format in EVENT_FORMATS:
            self.event_files = EventFiles(output, self._format, folders)
            self.output, self.path = self.event_files.sidecar, self.event_files.journal
        self.made_by: dict[str, str] = {}  # model, weights, engine and compute type
        self.offsets: dict[str, int] = {}  # where the last record of each input is
        self.failed: set[str] = set()
        self.size = 0
        self.is_finished = False
        self._file: FileIO | None = None
        self._replaced: tuple[int, ...] | None = None  # the output that may be replaced
        self._discards = False
        self.classes: list[str] = []  # whose scores a finished output holds
        self._check_place()

    def _check_place(self) -> None:
        output = self.event_files.output if self.event_files else self.output
        is_folder = self.event_files is not None and self.event_files.is_folder
        parent = os.path.dirname(output)
        if not os.path.isdir(parent):
            kind = "folder" if is_folder else "file"
            raise OptionError("output", output, f"a {kind} in a folder that exists; there is no folder {parent}")
        for path in {self.output} if is_folder else {self.output, output}:
            if os.path.lexists(path) and not os.path.isfile(path):
                raise OptionError("output", path, "a regular file")

    def __contains__(self, name: str) -> bool:
        """Whether an input needs no further work: those that failed are tried again."""
        return name in self.offsets and name not in self.failed

    def refuse_existing(self, names: Iterable[str] = ()) -> None:
        """Raises `UsageError` if there are results already, for one file a recording of those with these `names`."""
        if os.path.lexists(self.path):
            raise UsageError(f"{self.path} holds the results of an unfinished run: resume or overwrite it")
        if self.event_files is not None:
            self.event_files.refuse_existing(names)
        if os.path.exists(self.output):
            raise UsageError(f"{self.output} exists: resume it to keep its results, or overwrite it")

    def load(self) -> None:
        """
        Reads the results of an unfinished or else a finished run. Nothing is written yet.

        Raises:
            UsageError: if it was made with other options or by another program or changed since, or another run is at
                work on it.
        """
        with suppress(FileNotFoundError):
            self._file = open_locked(self.path, os.O_RDWR)
            self._read_journal()
        self._replaced = _identity(self.output)
        if self._replaced is None:
            return
        if self.size:
            self._check_output_in_journal()
            return
        self.is_finished = True
        for record in self._read_output():
            self._note(record, 0)
            if self._wide and not self.classes and "error" not in record:
                self.classes = classes_of(record)

    @property
    def is_begun(self) -> bool:
        """Whether there was something to continue."""
        return self.is_finished or self.size > 0

    def overwrite(self) -> None:
        """Discards what there is, once `begin` is called."""
        self._discards = True
        with suppress(FileNotFoundError):
            self._file = open_locked(self.path, os.O_RDWR)
        self._replaced = _identity(self.output)

    def _read_output(self) -> Iterator[Record]:
        if self.event_files is not None:
            yield from self._read_event_files(self.event_files)
            return
        yield from read_records(self.output, self._format, self._events, self._spreadsheet_safe, self._wide)

    def _read_event_files(self, files: EventFiles) -> Iterator[Record]:
        records = files.read(verify=not self.size)  # beside a journal, `finish` looks at them
        first = next(records, None)
        check_same_options(self.output, files.options, self.options)
        if not self.made_by:
            self.made_by = files.made_by
        yield from [] if first is None else [first, *records]

    def _read_journal(self) -> None:
        with self._reader() as file:
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                try:
                    self._take_line(line)
                except UsageError:
                    raise
                except ValueError as error:
                    raise UsageError(f"{self.path} is damaged: remove or overwrite it") from error
            if len(line) == MAX_LINE:  # else it was killed while writing it
                raise UsageError(f"{self.path} is damaged: remove or overwrite it")

    def _take_line(self, line: bytes) -> None:
        entry = parse_json(line)
        if not self.size:
            self._check_header(entry)
            self.size += len(line)
        elif isinstance(entry, dict) and isinstance(entry.get("weights"), str):
            self.made_by = entry
            self.size += len(line)
        else:
            check_record(entry, self._events)
            self._note(entry, len(line))

    def _check_header(self, header: Any) -> None:
        if not isinstance(header, dict) or not isinstance(header.get("options"), dict):
            raise ValueError("no header")
        if header.get("ced_journal") != VERSION:
            raise UsageError(f"{self.path} is not a journal of this version of ced: remove or overwrite it")
        check_same_options(self.path, header["options"], self.options)

    def _check_output_in_journal(self) -> None:
        """The output beside a journal is an earlier state of it, or else another run's, which must not be lost."""
        try:
            with self._reader() as file:
                lost = next((record for record in self._read_output() if self._would_lose(record, file)), None)
        except UsageError as error:
            raise UsageError(f"{error}; the results of an unfinished run are in {self.path}") from error
        if lost is not None:
            raise UsageError(
                f"{self.output} has another result for {lost['file']!r} than {self.path} of an unfinished run: move"
                " one of them away, then resume the other"
            )

    def _would_lose(self, record: Record, file: BinaryIO) -> bool:
        if "error" in record:
            return False
        if record["file"] not in self.offsets:
            return True
        file.seek(self.offsets[record["file"]])
        return json.loads(file.readline()) != record

    def _note(self, record: Record, length: int) -> None:
        name = record["file"]
        self.offsets[name] = self.size
        self.failed.discard(name)
        if "error" in record:
            self.failed.add(name)
        self.size += length

    def begin(self, made_by: dict[str, str]) -> None:
        """
        Makes ready to append results.

        Args:
            made_by: The `model`, the checksum of its `weights`, the `engine` and the `compute_type`.

        Raises:
            UsageError: if the results so far were made by others.
            RunError: if another run began meanwhile.
        """
        if self.made_by:
            check_same_maker(self.path, self.made_by, made_by)
        if self._file is None:
            self._create()
        assert self._file is not None
        self._file.truncate(self.size)
        self._file.seek(self.size)
        if not self.size:
            self._append({"ced_journal": VERSION, "options": self.options})
        if not self.made_by:
            self._append(made_by)
            self.made_by = made_by

    def _create(self) -> None:
        """Makes the journal; a finished output becomes one again."""
        try:
            self._check_replaced()
            if self.event_files is not None and self.event_files.is_folder:
                os.makedirs(self.event_files.output, exist_ok=True)
            if self.is_finished:
                self._import_output()
                self._file = open_locked(self.path, os.O_RDWR)
            else:
                self._file = open_locked(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except (FileExistsError, FileNotFoundError) as error:
            raise RunError(f"{self.path}: another run has begun in the meantime") from error
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise RunError(f"{self.path}: another run has begun in the meantime")
        try:
            self._check_replaced()  # from now on no other run replaces it
        except RunError:
            os.unlink(self.path)
            raise

    def _import_output(self) -> None:
        self.offsets.clear()
        with new_file(self.path, keeps=False) as file:
            self.size = file.write(json_line({"ced_journal": VERSION, "options": self.options}))
            if self.made_by:
                self.size += file.write(json_line(self.made_by))
            for record in self._read_output():
                self._note(record, file.write(json_line(record)))
        self.is_finished = False

    def _check_replaced(self, advice: str = "") -> None:
        """Raises `UsageError` if the output is not the one that was there when the run began."""
        if _identity(self.output) != self._replaced:
            raise RunError(f"{self.output} was written by another program in the meantime{advice}")

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
            raise RunError(f"{self.path}: {error.strerror}; {self.advice}") from error

    @property
    def advice(self) -> str:
        """Where the results are after an interruption."""
        count = f"{len(self.offsets)} result{'s' * (len(self.offsets) != 1)}"
        return f"{count} so far in {self.path}: resume to continue"

    def finish(self, names: Iterable[str]) -> None:
        """Writes the output: inputs of earlier runs that are not among `names`, then `names` in their order."""
        names = list(names)
        given = set(names)
        taken = f" and is left as it is: move it away; {self.advice}"
        order = [name for name in self.offsets if name not in given] + names
        remove_abandoned(self.output)
        part = temporary_name(Path(self.output))
        try:
            self._check_replaced(taken)
            with open(part, "xb") as file:
                if self.event_files is not None:
                    records = list(self._records(order))
                    file.write(self.event_files.write(records, self.made_by, self.options, self._discards))
                else:
                    options: Any = {"spreadsheet_safe": self._spreadsheet_safe, "wide": self._wide}
                    options |= {"made_by": self.made_by, "has_times": has_times(self.options)}
                    write_records(self._records(order), file, self._format, self._events, **options)
                file.flush()
                os.fsync(file.fileno())
            self._check_replaced(taken)
            put_file(part, self.output, replace=self._replaced is not None)
        except FileExistsError:
            self._check_replaced(taken)
            raise
        except OSError as error:
            raise RunError(f"{self.output}: {error.strerror or error}; {self.advice}") from error
        finally:
            with suppress(OSError):
                os.unlink(part)
        try:
            os.unlink(self.path)  # while it is locked: what another run finds here afterwards is its own
        except PermissionError:  # Windows, where it must be closed before
            self.close()
            os.unlink(self.path)
        self.close()

    def _records(self, names: Iterable[str]) -> Iterator[Record]:
        with self._reader() as file:
            for name in names:
                file.seek(self.offsets[name])
                yield json.loads(file.readline())

    def _reader(self) -> BinaryIO:
        """The locked journal, even if another file has its name now."""
        assert self._file is not None
        reader = open(os.dup(self._file.fileno()), "rb")
        reader.seek(0)
        return reader

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


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


def _identity(path: str) -> tuple[int, ...] | None:
    """Identifies a file and its contents; None if there is no file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
