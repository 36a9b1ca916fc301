# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds the inputs of a run from files, folders, patterns and lists of paths."""

import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from .messages import RunError, UsageError, printable
from .packages import require

STANDARD_INPUT = "-"
PATH_COLUMNS = ("uri", "path", "file", "file_name", "filename", "filepath", "file_path", "url", "audio")


@dataclass(frozen=True)
class Input:
    """
    Something to tag.

    Attributes:
        name: Its name in outputs, with `escape_name` applied.
        source: The input for `AudioTagger`.
        error: Why there is nothing to read, or None.
        is_empty: Whether it is a folder or pattern without any audio file.
        place: Its row in a data set, for messages.
    """

    name: str
    source: Any
    error: str | None = None
    is_empty: bool = False
    place: str | None = None


def find_inputs(paths: Iterable[str], list_file: str | None = None) -> list[Input]:
    """
    All inputs in order, without duplicates.

    Args:
        paths: Files, folders (searched recursively for audio files that are not hidden), patterns such as `**/*.wav`,
            or `-` for standard input.
        list_file: A file with paths of files and folders, one per line or separated by NUL; `-` for standard input.

    Raises:
        UsageError: if nothing is found, or standard input is given twice or is a terminal.
    """
    paths = list(paths)
    if not paths and list_file is None:
        raise UsageError("no input: give files, folders, patterns such as *.wav, --from LIST, or - for standard input")
    if "" in paths:
        raise UsageError("'' is not a path")
    if STANDARD_INPUT in paths and list_file == STANDARD_INPUT:
        raise UsageError("standard input is either audio or a list of paths, not both")
    found: dict[str, Input] = {}
    for path in paths:
        for item in [_standard_input()] if path == STANDARD_INPUT else _expand(path):
            found.setdefault(_key(item), item)
    for path in [] if list_file is None else read_list(list_file):
        for item in _expand_path(path):
            found.setdefault(_key(item), item)
    if all(item.is_empty for item in found.values()):
        raise UsageError(f"no audio files in {', '.join(map(_shown, paths + ([list_file] if list_file else [])))}")
    return list(found.values())


def existing(path: str | os.PathLike) -> str:
    """The path with `~` expanded; raises a `UsageError` if it does not exist or is a URL."""
    text = os.path.expanduser(os.fspath(path))
    if "://" in text:
        raise UsageError(f"{printable(text)}: labelled clips are read from local files only; download them first.")
    if not os.path.exists(text):
        raise UsageError(f"{printable(text)}: there is no such file or folder.")
    return text


def escape_name(name: str) -> str:
    r"""
    A file name as valid Unicode: bytes that are not UTF-8 become `\xNN`.

    If a name contains `\xNN` itself, its backslash becomes `\x5c`, so that replacing each `\xNN` by its byte restores
    the name. All other names are unchanged.
    """
    name = re.sub(r"\\(?=x[0-9a-f]{2})", r"\\x5c", name)
    name = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", name)
    return name.encode(errors="backslashreplace").decode()


def unescape_name(name: str) -> str:
    """Reverts [`escape_name`]."""
    return os.fsdecode(re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), name.encode()))


def _key(item: Input) -> str:
    """The key for duplicates: ./a.wav and a.wav are equal, a/../b.wav and b.wav may differ (links)."""
    return os.path.join(os.getcwd(), item.name) if isinstance(item.source, str) else STANDARD_INPUT


def _shown(path: str) -> str:
    return repr(escape_name(path))


def _expand(path: str) -> Iterator[Input]:
    """A path or, where there is no such file, a pattern."""
    is_pattern = glob.has_magic(path) and not os.path.lexists(path) and "://" not in path
    if not is_pattern:
        yield from _expand_path(path)
        return
    matches = sorted(glob.iglob(path, recursive=True))
    if not matches:
        yield Input(escape_name(path), path, "no such file, and nothing matches it as a pattern", is_empty=True)
    for match in matches:
        yield from _expand_path(match)


def _expand_path(path: str) -> Iterator[Input]:
    if not os.path.isdir(path):
        yield _file(path)
        return
    is_empty = True
    for item in _walk(path):
        is_empty = False
        yield item
    if is_empty:
        yield replace(_file(path), error="no audio files in this folder", is_empty=True)


def _file(path: str) -> Input:
    name = path if "://" in path else str(PurePath(path))
    return Input(escape_name(name), path)


def _walk(folder: str) -> Iterator[Input]:
    from .audio import walk_audio

    problems: list[OSError] = []
    for path in walk_audio(folder, problems):
        while problems:
            yield _unlisted(problems.pop(0))
        yield _file(path)
    yield from map(_unlisted, problems)


def _unlisted(problem: OSError) -> Input:
    return replace(_file(os.fsdecode(problem.filename)), error=f"cannot be listed: {problem.strerror}")


def read_list(list_file: str) -> list[str]:
    """Paths in a file, one per line or separated by NUL, or in a column of a Parquet file; `-` is standard input."""
    if list_file.partition("?")[0].lower().endswith(".parquet"):
        return _read_parquet_list(list_file)
    try:
        if list_file == STANDARD_INPUT:
            content = sys.stdin.buffer.read()
        else:
            with open(list_file, "rb") as file:
                content = file.read()
    except OSError as error:
        raise UsageError(f"the list {escape_name(list_file)}: {error.strerror}") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    separated_by_nul = b"\0" in content
    lines = content.split(b"\0") if separated_by_nul else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line]


def _read_parquet_list(list_file: str) -> list[str]:
    """Paths in a Parquet file, on any file system that PyArrow supports."""
    require(("pyarrow",), "a list of paths in Parquet")
    from pyarrow import ArrowInvalid, parquet

    from .storage import locate

    place = f"the list {escape_name(list_file)}"
    try:
        file_system, path = locate(list_file)
        with file_system.open_input_file(path) as file, parquet.ParquetFile(file) as table:
            schema = table.schema_arrow
            texts = [field.name for field in schema if str(field.type) in ("string", "large_string")]
            column = next((name for name in PATH_COLUMNS if name in texts), texts[0] if len(texts) == 1 else None)
            if column is None:
                raise UsageError(f"{place}: no column of paths: name it {PATH_COLUMNS[0]} or {PATH_COLUMNS[1]}")
            return [path for path in table.read([column])[column].to_pylist() if path]
    except OSError as error:
        raise UsageError(f"{place}: {error.strerror or error}") from error
    except UsageError:
        raise
    except ValueError as error:
        reason = "not a Parquet file" if isinstance(error, ArrowInvalid) and "://" not in list_file else error
        raise UsageError(f"{place}: {reason}") from error


def _standard_input() -> Input:
    """Standard input as a seekable file. It is read here and not in a thread, which could not be stopped."""
    if sys.stdin.isatty():
        raise UsageError("-: standard input is a terminal; send an audio file to it")
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process runs
    try:
        shutil.copyfileobj(sys.stdin.buffer, copy, 2**20)
    except OSError as error:
        raise RunError(f"standard input: {error.strerror or error}") from error
    return Input(STANDARD_INPUT, copy)
