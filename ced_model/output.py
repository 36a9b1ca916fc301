# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Writes files and folders atomically, without replacing existing ones by accident.

The content is first written next to its destination, under a hidden name that ends in `.tmp`, and then renamed. The
renaming itself fails if the name is taken, so that there is no gap between check and use. Imports nothing heavy.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .messages import OptionError

StrPath = str | os.PathLike[str]
LOCKED_BYTE = 2**31 - 2  # beyond the end of files, since Windows prevents reading of locked bytes
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)  # the name is taken by another file or folder


@contextmanager
def new_file(path: StrPath, replace: bool = False, keeps: bool = True) -> Iterator[BinaryIO]:
    """
    A binary file that becomes `path` at the end of the context; if anything goes wrong, it is removed.

    Args:
        path: The file; for a link, its target.
        replace: Whether a file at `path` may be replaced.
        keeps: Whether to keep the file under another name (given in the error) if `path` is taken in the end.

    Raises:
        FileExistsError: if `path` exists, unless it may be replaced.
    """
    path = Path(os.path.realpath(path))
    part = temporary_name(path)
    try:
        with _named(part, path):
            with open(part, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            try:
                put_file(part, path, replace)
            except OSError as error:
                if keeps:
                    raise _kept(part, path, error) from error
                raise
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def check_new_file(option: str, path: StrPath, extension: str, replace: bool = False) -> None:
    """Raises an OptionError if `path` does not end in `extension` or cannot be written."""
    path = Path(path)
    if path.suffix.lower() != extension:
        raise OptionError(option, path, f"a name that ends in {extension}")
    if path.is_dir() or not path.parent.is_dir():
        reason = "this is a folder" if path.is_dir() else f"there is no folder {str(path.parent)!r}"
        raise OptionError(option, path, f"a file; {reason}")
    if path.exists() and not replace:
        raise OptionError(option, path, "a new file; this one exists: use `overwrite=True`, or give another name")
    check_writable(path)


def check_writable(path: StrPath, output: StrPath | None = None) -> None:
    """Raises an `OSError` that names `output`, by default `path`, if nothing can be created next to `path`."""
    path = Path(os.path.abspath(path))
    folder = next(parent for parent in path.parents if parent.exists())  # missing ones are created later
    probe = temporary_name(folder / path.name)
    with _named(probe, path if output is None else Path(output)):
        probe.mkdir()
        probe.rmdir()


@contextmanager
def _named(part: Path, path: Path) -> Iterator[None]:
    """A context in which errors about `part`, or a file in it, name `path` instead: the name that the user gave."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        elif isinstance(error.filename, str | Path) and Path(error.filename).is_relative_to(part):
            error.filename, error.filename2 = os.fspath(path / Path(error.filename).relative_to(part)), None
        raise


def write_file(path: StrPath, content: bytes, replace: bool = True) -> None:
    """
    Writes a file atomically. An existing one is replaced by default.

    Raises:
        FileExistsError: if `path` exists, unless it may be replaced.
    """
    with new_file(path, replace, keeps=False) as file:
        file.write(content)


def put_file(part: StrPath, path: StrPath, replace: bool = False) -> None:
    """
    Renames `part` to `path` atomically.

    Raises:
        FileExistsError: if `path` exists, unless it may be replaced. `part` is then kept.
    """
    if replace:
        os.replace(part, path)
        return
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: an empty file takes the name, and is replaced
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        os.replace(part, path)
    else:
        os.unlink(part)


@contextmanager
def new_folder(path: StrPath, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """
    A folder that becomes `path` at the end of the context; if anything goes wrong, it is removed.

    Args:
        path: The folder. An empty folder with this name is always replaced.
        check: Raises an error if the existing folder must not be replaced. It is called after that folder was moved
            aside, so that it no longer changes; the folder is moved back after an error. Without `check`, only an empty
            folder is replaced.

    Raises:
        FileExistsError: if `path` exists in the end and must not be replaced. The new folder is kept under another
            name, which is in the message.
    """
    path = Path(os.path.abspath(path))
    folder = temporary_name(path)
    try:
        with _named(folder, path):
            folder.mkdir()
            yield folder
            for file in folder.rglob("*"):
                _bring_to_disk(file)
            _put_folder(folder, path, check)
    except OSError as error:
        if error.errno in FULL:  # `shutil` gives the name of the file that was copied
            error.filename, error.filename2 = os.fspath(path), None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_folder(folder: Path, path: Path, check: Callable[[Path], None] | None) -> None:
    old = None
    try:
        with suppress(OSError):
            path.rmdir()  # if it is empty
        if check is not None and path.is_dir():
            aside = temporary_name(path)
            os.rename(path, aside)
            old = aside
            check(old)
        os.rename(folder, path)  # fails if the name is taken
    except BaseException as error:
        if old is not None:
            os.rename(old, path)
        if isinstance(error, Exception):
            raise _kept(folder, path, error) from error
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _kept(part: Path, path: Path, error: Exception) -> OSError:
    """Renames `part` to a visible name, since `path` is taken."""
    kept = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    os.rename(part, kept)
    number, reason = errno.EEXIST, "something else was written there in the meantime and is left as it is"
    if isinstance(error, OSError) and error.errno not in TAKEN:
        number, reason = error.errno or errno.EIO, error.strerror or str(error)
    return OSError(number, f"{reason}; the result is in {kept}", os.fspath(path))


def temporary_name(path: Path) -> Path:
    """An unused hidden name next to `path`."""
    return path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.tmp")


def remove_abandoned(path: StrPath) -> None:
    """Removes temporary files of killed processes. Only for the process that may write `path`."""
    path = Path(path)
    start = re.escape(f".{path.name[:100]}.")
    for beside in path.parent.iterdir():
        if re.fullmatch(start + r"[0-9a-f]{8}\.tmp", beside.name):
            with suppress(OSError):
                beside.unlink()


def _bring_to_disk(file: Path) -> None:
    """Without this, the file might be empty after a power failure."""
    if file.is_file():
        with open(file, "rb+") as opened:
            os.fsync(opened.fileno())


def lock_on_windows(descriptor: int) -> None:
    """
    Locks a file on Windows, until it is closed.

    Raises:
        BlockingIOError: if another process has locked it.
        ImportError: on other systems, which have `fcntl`.
    """
    import msvcrt

    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except PermissionError as error:
        raise BlockingIOError from error
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
