# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
The journal of an unfinished output: `FILE.journal` next to it.

Its first line has the options, the second one the model, the checksum of its weights, the engine and the compute type.
Each further line is the record of one input, written as soon as it is ready. When all inputs are done, the output is
written atomically and the journal is removed.

A run locks its journal from before reading it until after removing it. An output that appeared or changed after the run
began is not replaced.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .messages import OptionError, RunError, UsageError
from .output import check_writable, new_file, put_file, remove_abandoned, temporary_name
from .records import WIDE, Record, check_record, check_same_maker, check_same_options, classes_of, has_times
from .unfinished import Lines
from .writers import EVENT_FORMATS, Format, read_records, write_records
from .writers.event_files import EventFiles
from .writers.json import json_line

VERSION = 1
STARTED = "another run has started in the meantime: wait until it ends, or choose another output"


class Journal(Lines):
    """
    The records of an unfinished output.

    Args:
        output: The output file.
        options: Options that must be the same for all records, in a form that can be stored as JSON.
        folders: For an output with one file per recording, the folders of the recordings.
    """

    def __init__(self, output: str, options: dict[str, Any], folders: Sequence[str] = ()) -> None:
        self.output = os.path.realpath(output)  # to replace the target of a link, not the link
        super().__init__(f"{self.output}.journal")
        self.options = json.loads(json.dumps(options))
        self._format = Format(options["format"])
        self._kind = options.get("wide") or ("events" if options["events"] else "tags")
        self._spreadsheet_safe = bool(options.get("spreadsheet_safe"))
        self.event_files: EventFiles | None = None
        if self._format in EVENT_FORMATS:
            self.event_files = EventFiles(output, self._format, folders)
            self.output, self.path = self.event_files.sidecar, self.event_files.journal
        self.made_by: dict[str, str] = {}  # model, weights, engine and compute type
        self.failed: set[str] = set()
        self.is_finished = False
        self._replaced: tuple[int, ...] | None = None  # identity of the output that may be replaced
        self._discards = False
        self.classes: list[str] = []  # classes with scores in a finished output
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

    def _check_writable(self) -> None:
        check_writable(self.path, self.event_files.output if self.event_files else self.output)

    def __contains__(self, name: str) -> bool:
        """Whether an input is done. Inputs that failed are not."""
        return name in self.offsets and name not in self.failed

    def refuse_existing(self, names: Iterable[str] = ()) -> None:
        """Raises `UsageError` if there are results already (of inputs in `names`, if each has its own file)."""
        self._check_writable()
        if os.path.lexists(self.path):
            raise UsageError(f"{self.path} has the results of an unfinished run: use `resume=True` or `overwrite=True`")
        if self.event_files is not None:
            self.event_files.refuse_existing(names)
        if os.path.exists(self.output):
            raise UsageError(f"{self.output} exists: use `resume=True` to keep its results, or `overwrite=True`")

    def load(self) -> None:
        """
        Reads the results of an unfinished or finished run. Nothing is written yet.

        Raises:
            UsageError: if the results were made with other options or by another program, were changed, or are in use
                by another run.
        """
        with suppress(FileNotFoundError):
            self.open(os.O_RDWR)
            for entry, length in self.read_lines():
                self._take(entry)
                self.size += length
        self._replaced = _identity(self.output)
        if self._replaced is None:
            return
        if self.size:
            self._check_output_in_journal()
            return
        self.is_finished = True
        for record in self._read_output():
            self._note(record, 0)
            if self._kind in WIDE and not self.classes and "error" not in record:
                self.classes = classes_of(record)

    @property
    def is_begun(self) -> bool:
        """Whether there are results to continue."""
        return self.is_finished or self.size > 0

    def overwrite(self) -> None:
        """Discards existing results when `begin` is called."""
        self._check_writable()
        self._discards = True
        with suppress(FileNotFoundError):
            self.open(os.O_RDWR)
        self._replaced = _identity(self.output)

    def _read_output(self) -> Iterator[Record]:
        if self.event_files is not None:
            yield from self._read_event_files(self.event_files)
            return
        yield from read_records(self.output, self._format, self._kind, self._spreadsheet_safe)

    def _read_event_files(self, files: EventFiles) -> Iterator[Record]:
        records = files.read(verify=not self.size)  # with a journal, `finish` verifies them
        first = next(records, None)
        check_same_options(self.output, files.options, self.options)
        if not self.made_by:
            self.made_by = files.made_by
        yield from [] if first is None else [first, *records]

    def _take(self, entry: Any) -> None:
        if not self.size:
            self._check_header(entry)
        elif isinstance(entry, dict) and isinstance(entry.get("weights"), str):
            self.made_by = entry
        else:
            try:
                check_record(entry, self._kind)
            except ValueError as error:
                raise self.damaged() from error
            self._note(entry, self.size)

    def _check_header(self, header: Any) -> None:
        if not isinstance(header, dict) or not isinstance(header.get("options"), dict):
            raise self.damaged()
        if header.get("ced_journal") != VERSION:
            raise UsageError(f"{self.path} is not a journal of this version of ced: remove it or {self.replacing}")
        check_same_options(self.path, header["options"], self.options)

    def _check_output_in_journal(self) -> None:
        """Checks that an output next to a journal is an earlier state of it, not of another run, to lose no results."""
        try:
            lost = next(filter(self._would_lose, self._read_output()), None)
        except UsageError as error:
            raise UsageError(f"{error}; the results of an unfinished run are in {self.path}") from error
        if lost is not None:
            raise UsageError(
                f"{self.output} has another result for {lost['file']!r} than {self.path} of an unfinished run: move"
                " one of them away, then resume the other"
            )

    def _would_lose(self, record: Record) -> bool:
        return "error" not in record and (record["file"] not in self.offsets or self.entry(record["file"]) != record)

    def _note(self, record: Record, offset: int) -> None:
        name = record["file"]
        self.offsets[name] = offset
        self.failed.discard(name)
        if "error" in record:
            self.failed.add(name)

    def begin(self, made_by: dict[str, str]) -> None:
        """
        Prepares for appending results.

        Args:
            made_by: The `model`, the checksum of its `weights`, the `engine` and the `compute_type`.

        Raises:
            UsageError: if existing results were made by another model, engine or compute type.
            RunError: if another run has started in the meantime.
        """
        if self.made_by:
            check_same_maker(self.path, self.made_by, made_by)
        if self._file is None:
            self._create()
        self.cut_off()
        if not self.size:
            self.write({"ced_journal": VERSION, "options": self.options})
        if not self.made_by:
            self.write(made_by)
            self.made_by = made_by

    def _create(self) -> None:
        """Creates the journal, from a finished output if there is one."""
        try:
            self._check_replaced()
            if self.event_files is not None and self.event_files.is_folder:
                os.makedirs(self.event_files.output, exist_ok=True)
            if self.is_finished:
                self._import_output()
                self.open(os.O_RDWR)
            else:
                self.open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except (FileExistsError, FileNotFoundError) as error:
            raise RunError(f"{self.path}: {STARTED}") from error
        assert self._file is not None
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise RunError(f"{self.path}: {STARTED}")
        try:
            self._check_replaced()  # from here on no other run replaces it
        except RunError:
            self.remove()
            raise

    def _import_output(self) -> None:
        self.offsets.clear()
        with new_file(self.path, keeps=False) as file:
            self.size = file.write(json_line({"ced_journal": VERSION, "options": self.options}))
            if self.made_by:
                self.size += file.write(json_line(self.made_by))
            for record in self._read_output():
                self._note(record, self.size)
                self.size += file.write(json_line(record))
        self.is_finished = False

    def _check_replaced(self, advice: str = ": run the same command again") -> None:
        """Raises `RunError` if the output has changed since the run began."""
        if _identity(self.output) != self._replaced:
            raise RunError(f"{self.output} was written by another program in the meantime{advice}")

    def append(self, record: Record) -> None:
        self._note(record, self.write(record))

    def finish(self, names: Iterable[str]) -> None:
        """Writes the output: inputs of earlier runs that are not in `names`, then `names` in order."""
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
                    records = list(self.entries(order))
                    file.write(self.event_files.write(records, self.made_by, self.options, self._discards))
                else:
                    options: Any = {"made_by": self.made_by, "has_times": has_times(self.options)}
                    options["spreadsheet_safe"] = self._spreadsheet_safe
                    write_records(self.entries(order), file, self._format, self._kind, **options)
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
        self.remove()


def _identity(path: str) -> tuple[int, ...] | None:
    """A tuple that changes with a file or its content; None if there is no file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
