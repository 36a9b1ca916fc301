# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Outputs in event formats: one file for all recordings, or a folder with one file per recording.

A JSON sidecar beside them has all records, including those of failed recordings, and the model, versions and options,
which most event formats cannot store. An output can be resumed if its files are identical to those that the sidecar's
records give.
"""

import errno
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from ..audio import SAMPLING_RATE, duration_s, native_sampling_rate, read_blocks
from ..events import Event
from ..input_list import escape_name
from ..messages import OptionError, RunError, UsageError
from ..output import write_file
from ..records import Record, check_record
from . import EVENT_FORMATS, Format, write_records
from .json import json_line, parse_json

MAX_NAME = 240  # bytes; file systems allow 255


def is_folder(output: str) -> bool:
    """Whether an output is a folder: an existing one, or a name that ends in `/` or has no suffix."""
    if os.path.exists(output):
        return os.path.isdir(output)
    return output.endswith(("/", os.sep)) or not os.path.splitext(output)[1]


class EventFiles:
    """
    The files of an output.

    Args:
        output: A file or folder.
        format: One of `EVENT_FORMATS`.
        folders: Input folders. The output keeps the relative paths of recordings in them.

    Attributes:
        sidecar: The path of the sidecar.
        journal: The path of the journal of an unfinished run.
        made_by, options: From the sidecar, after `read`.
    """

    def __init__(self, output: str, format: Format, folders: Sequence[str] = ()) -> None:
        self.output, self.format, self.folders = os.path.realpath(output), format, folders
        self.is_folder = is_folder(output)
        if self.is_folder:
            self.sidecar = os.path.join(self.output, f"ced-{format}.json")
            self.journal = f"{self.sidecar}.journal"
        else:
            self.sidecar, self.journal = f"{self.output}.ced.json", f"{self.output}.journal"
        self.made_by: dict[str, str] = {}
        self.options: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def check_number(self, names: Iterable[str]) -> None:
        """Raises a `UsageError` for several recordings in one file, if the format does not support that."""
        if not self.is_folder and len(set(names)) > 1:
            check_combines(self.format)

    def refuse_existing(self, names: Iterable[str], is_begun: bool = False) -> None:
        """Raises a `UsageError` if the file of a recording that is new to the output already exists."""
        if is_begun and not self.is_folder:
            return
        own = [] if is_begun else [self.sidecar, *self._configuration()]
        recordings = list(self._paths(names).values())
        if taken := next(filter(os.path.lexists, own + recordings if self.is_folder else recordings + own), None):
            is_own = os.path.lexists(self.sidecar) and not is_begun
            raise UsageError(f"{taken} exists: use {'`resume=True` to keep its results, or ' * is_own}`overwrite=True`")

    def read(self, verify: bool = True) -> Iterator[Record]:
        """
        The records of the sidecar.

        Raises:
            UsageError: if the sidecar is missing or damaged, or a file was changed or removed.
        """
        try:
            with open(self.sidecar, "rb") as file:
                content = parse_json(file.read().decode())
            records = content["records"]
            self.made_by, self.options, self._names = (dict(content[key]) for key in ("made_by", "options", "files"))
            verify = verify and self.options["format"] == self.format and bool(self.made_by["weights"])
            if any(".." in PurePath(name).parts or PurePath(name).is_absolute() for name in self._names.values()):
                raise ValueError("a file outside the folder")
            for record in records:
                check_record(record, "events")
            contents = self._contents(records)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{self.sidecar} is damaged: use `overwrite=True`, or choose another output") from error
        for path, whole in contents.items() if verify else ():
            if _read(path) != whole:
                change = "was changed after it was written" if os.path.exists(path) else "was removed"
                raise UsageError(
                    f"{path} {change} and cannot be resumed: use `overwrite=True`, or choose another output; the"
                    f" results are also in {self.sidecar}"
                )
        yield from records

    def write(self, records: list[Record], made_by: dict[str, str], options: dict[str, Any], replace: bool) -> bytes:
        """
        Writes all files except the sidecar, and returns the content of the sidecar.

        Raises:
            RunError: if a file exists that this output did not write, unless `replace` is set.
        """
        own: dict[str, bytes] = {}
        if not replace and os.path.exists(self.sidecar):
            own = self._contents(list(self.read(verify=False)))
        self.made_by, self.options = made_by, options
        old = self._old_contents() if replace else {}
        changed = {path: whole for path, whole in self._contents(records).items() if _read(path) != whole}
        for path in changed:
            if os.path.lexists(path) and not replace and (path not in own or _read(path) != own[path]):
                reason = "was written by another program and is not replaced"
                raise RunError(f"{path} {reason}: move it away, then resume; the results are in {self.journal}")
        self._write_all(changed, lambda path: replace or path in own)
        for path in old.keys() - self._contents(records).keys():  # of recordings that are no longer inputs
            if _read(path) == old[path]:
                os.unlink(path)
        return self._sidecar(records)

    def _old_contents(self) -> dict[str, bytes]:
        """The files of an earlier output at this place, by path."""
        old = EventFiles(self.output, self.format, self.folders)
        with suppress(UsageError, OSError):
            return old._contents(list(old.read(verify=False)))
        return {}

    def write_new(self, records: list[Record], replace: bool) -> None:
        """Writes all files, without a sidecar. Raises a `FileExistsError` if one exists, unless `replace` is set."""
        contents = self._contents(records)
        if not replace and (taken := next(filter(os.path.lexists, contents), None)):
            raise FileExistsError(
                errno.EEXIST, "the file exists: use `overwrite=True`, or choose another output", taken
            )
        self._write_all(contents, lambda path: replace)

    @staticmethod
    def _write_all(contents: Mapping[str, bytes], may_replace: Callable[[str], bool]) -> None:
        for path, whole in contents.items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_file(path, whole, may_replace(path))

    def _sidecar(self, records: list[Record]) -> bytes:
        from .. import __version__

        good = [record["file"] for record in records if "error" not in record]
        files = {name: self._names[name] for name in good if name in self._names}
        head: dict[str, Any] = {
            "ced_model": __version__,
            "made_by": self.made_by,
            "options": self.options,
            "files": files,
        }
        lines = b",".join(map(json_line, records))
        return json_line(head)[:-2] + b', "records":[\n' + lines + b"]}\n"

    def _contents(self, records: list[Record]) -> dict[str, bytes]:
        """The contents of the files, by path."""
        if self.is_folder:
            paths = self._paths(record["file"] for record in records)
            contents = {paths[each["file"]]: self._rendered([each]) for each in records if "error" not in each}
        else:
            contents = {self.output: self._rendered(records)}
        for path in self._configuration():
            from .labelstudio import configuration

            asked = self.options.get("thresholds")
            labels = {event["label"] for record in records for event in record.get("events", [])}
            contents[path] = configuration(sorted(labels.union(asked if isinstance(asked, Mapping) else ())))
        return contents

    def _rendered(self, records: Iterable[Record]) -> bytes:
        stream = io.BytesIO()
        write_records(records, stream, self.format, "events", made_by=self.made_by)
        return stream.getvalue()

    def _configuration(self) -> list[str]:
        """The path of Label Studio's labelling configuration."""
        if self.format is not Format.LABELSTUDIO:
            return []
        stem = os.path.join(self.output, "labelstudio") if self.is_folder else os.path.splitext(self.output)[0]
        return [f"{stem}.xml"]

    def _paths(self, recordings: Iterable[str]) -> dict[str, str]:
        """The file of each recording: the earlier one, or else the first free name, in the order of recordings."""
        if not self.is_folder:
            return dict.fromkeys(recordings, self.output)
        recordings = list(recordings)
        taken = {name.casefold() for name in self._names.values()} | {os.path.basename(self.sidecar)}
        for recording in recordings:
            if recording not in self._names:
                name = next(name for name in self._candidates(recording) if name.casefold() not in taken)
                taken.add(name.casefold())
                self._names[recording] = name
        return {recording: os.path.join(self.output, self._names[recording]) for recording in recordings}

    def _candidates(self, recording: str) -> Iterator[str]:
        """Names for the file of a recording, by preference: `a.txt`, `a.wav.txt`, `folder/a.wav.txt`, …"""
        suffix = EVENT_FORMATS[self.format].suffix
        path = PurePath("standard-input" if recording == "-" else recording)
        relative = whole = PurePath(path.name)
        for folder in sorted(self.folders, key=len):
            if path.is_relative_to(folder) and path != PurePath(folder):
                relative = path.relative_to(folder)
        stem = relative.stem.encode()[: MAX_NAME - len(suffix)].decode(errors="ignore")
        if len(relative.name.encode()) > MAX_NAME - len(suffix):
            relative = whole = relative.with_name(stem)
        yield str(relative.with_name(stem + suffix))
        yield f"{relative}{suffix}"
        if relative.name == path.name:
            whole = PurePath(*[part for part in path.parts if part not in (path.anchor, "..")])
        yield f"{whole}{suffix}"
        number = 2
        while True:
            yield f"{whole}.{number}{suffix}"
            number += 1


def write_events(
    path: str | os.PathLike[str],
    events: Mapping[Any, Sequence[Event]],
    format: str,
    *,
    model: str = "",
    overwrite: bool = False,
) -> None:
    """
    Writes events of recordings in a format of another program, as `ced tag --format` does.

    Args:
        path: A file for all recordings, or a folder for one file per recording. It is a folder if it is an existing
            one, ends in `/` or has no suffix. Missing folders are created.
        events: Events by path of the recording, as from [`AudioTagger.events`]. If the format needs the duration and
            the sampling rate, they are read from the recording.
        format: `"audacity"`, `"raven"`, `"dcase"`, `"rttm"`, `"textgrid"` or `"labelstudio"`. A file for Audacity or
            Praat (`"textgrid"`) has one recording.
        model: The name of the model, for Raven and Label Studio.
        overwrite: Whether existing files may be replaced.

    Raises:
        ValueError: for another format, invalid events, or several recordings in a file that can have only one.
        AudioError: if a recording cannot be read.
        FileExistsError: if a file exists, unless `overwrite` is set.
    """
    if format not in EVENT_FORMATS:
        raise OptionError("format", format, ", ".join(EVENT_FORMATS))
    if not isinstance(events, Mapping):
        raise OptionError("events", type(events).__name__, "a dictionary of recordings and their events")
    records = [_record(os.fspath(file), found) for file, found in events.items()]
    files = EventFiles(os.fspath(path), Format(format))
    files.check_number(record["file"] for record in records)
    files.made_by = {"model": model}
    files.write_new(records, overwrite)


def _record(file: str, events: Sequence[Event]) -> Record:
    length_s = duration_s(file)
    if length_s is None:
        length_s = sum(map(len, read_blocks(file))) / SAMPLING_RATE
    for event in events:
        if not 0 <= event.onset_s < event.offset_s < math.inf:
            times = f"from {event.onset_s} to {event.offset_s} s"
            raise OptionError("events", times, "an onset from 0, and an offset after it")
    record: Record = {
        "file": escape_name(file),
        "duration_s": length_s,
        "events": [event._asdict() for event in events],
    }
    if rate := native_sampling_rate(file):
        record["sampling_rate"] = rate
    check_record(record, "events")
    return record


def check_combines(format: Format) -> None:
    """Raises a `UsageError` if a file of this format cannot have several recordings."""
    if format in EVENT_FORMATS and not EVENT_FORMATS[format].combines:
        raise UsageError(
            f"a file in {format} format can have only one recording: add --output DIR/ for one file per recording"
        )


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None
