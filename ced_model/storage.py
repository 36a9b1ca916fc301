# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Files and folders by path or URI (`s3://`, `gs://`, `hdfs://`, …), through the file systems of PyArrow."""

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from posixpath import basename, splitext
from typing import Any

from pyarrow import fs

from .audio import AUDIO_EXTENSIONS
from .messages import one_line
from .output import write_file

# Uploads to these are atomic; on other file systems, a file is written under another name and then renamed.
OBJECT_STORES = {"s3", "gcs", "abfs"}


def is_uri(path: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def locate(path: str) -> tuple[fs.FileSystem, str]:
    """
    The file system of a path or URI, and the path in it.

    The path after the bucket or host is used literally, as in `aws s3` and Ray: `%20` is not a space. A query, such as
    `?region=eu-west-1` or `?endpoint_override=…`, configures PyArrow's access to the store.

    Raises:
        ValueError: for a URI that PyArrow does not support.
    """
    if not is_uri(path):
        return _file_system("file:///")[0], os.path.abspath(path)
    scheme, rest = path.split("://", 1)
    rest, _, query = rest.partition("?")
    host, _, inner = rest.partition("/")
    if ":" in host.rpartition("@")[0]:
        raise ValueError(f"{scheme}://…@…: credentials do not belong in a URI; set the store's environment variables")
    file_system, root = _file_system(f"{scheme}://{host}/" + (f"?{query}" if query else ""))
    return file_system, f"{root.rstrip('/')}/{inner.lstrip('/')}".rstrip("/") or "/"


@lru_cache(maxsize=64)  # clients are expensive: one per bucket, not per file
def _file_system(root: str) -> tuple[fs.FileSystem, str]:
    try:
        return fs.FileSystem.from_uri(root)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{root}: {reason_of(error)}") from error


def join(folder: str, name: str) -> str:
    """The path or URI of a file in a folder, with the query of the folder's URI at the end."""
    if not is_uri(folder):
        return os.path.join(folder, name)
    path, mark, query = folder.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def walk_uri(uri: str) -> Iterator[str]:
    """
    URIs of the audio files in a folder of a file system, sorted by name, without hidden ones. A URI that is not that of
    a folder is returned unchanged.

    Raises:
        ValueError: for a pattern.
        OSError: if the store cannot be reached or denies access.
    """
    file_system, path = locate(uri)
    kind = file_system.get_file_info(path).type
    if kind is fs.FileType.NotFound and any(mark in path for mark in "*["):
        raise ValueError(f"{uri}: patterns are for local paths; give the folder, or a list of paths")
    if kind is not fs.FileType.Directory:
        yield uri
        return
    for info in sorted(file_system.get_file_info(fs.FileSelector(path, recursive=True)), key=lambda info: info.path):
        inner = info.path[len(path) :].lstrip("/")
        is_hidden = any(part.startswith(".") for part in inner.split("/"))
        if info.type is fs.FileType.File and not is_hidden and splitext(inner)[1].lower() in AUDIO_EXTENSIONS:
            yield join(uri, inner)


class RemoteFile:
    """A file that is opened lazily, so that a missing one is an error of this input only."""

    def __init__(self, uri: str) -> None:
        self.name = uri.partition("?")[0]
        self._uri = uri
        self._stream: Any = None

    def read(self, size: int = -1) -> bytes:
        if self._stream is None:
            file_system, path = locate(self._uri)
            self._stream = file_system.open_input_stream(path, compression=None)
        data = self._stream.read(None if size < 0 else size)
        if not data:
            self._stream.close()
        return data


class Folder:
    """
    A folder of results, in which files are written atomically. Methods raise `OSError` with the reason of the file
    system.
    """

    def __init__(self, path: str) -> None:
        self.uri = path
        self.file_system, self.path = locate(path)

    def list(self, inner: str = "") -> dict[str, int]:
        """Names of the files in it or its subfolder `inner`, with sizes in bytes; empty if there is no such folder."""
        place = f"{self.path}/{inner}".rstrip("/")
        infos = self.file_system.get_file_info(fs.FileSelector(place, allow_not_found=True))
        return {basename(info.path): info.size for info in infos if info.type is fs.FileType.File}

    def open(self, name: str) -> Any:
        """Opens a file as a seekable `pyarrow.NativeFile`."""
        return self.file_system.open_input_file(f"{self.path}/{name}")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def remove(self, name: str) -> None:
        self.file_system.delete_file(f"{self.path}/{name}")

    def write(self, name: str, content: bytes, replace: bool = True) -> None:
        """
        Writes a file atomically.

        Raises:
            FileExistsError: if the file exists, unless it may be replaced. On object stores, this is checked just
                before writing.
        """
        target = f"{self.path}/{name}"
        kind = self.file_system.type_name
        parent, _, last = target.rpartition("/")
        if kind == "local":
            self.file_system.create_dir(parent, recursive=True)
            write_file(target, content, replace)
            return
        if not replace and self.file_system.get_file_info(target).type is not fs.FileType.NotFound:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        if kind in OBJECT_STORES:
            self._upload(target, content)
            return
        part = f"{parent}/.{last}.{uuid.uuid4().hex}"
        try:
            self.file_system.create_dir(parent, recursive=True)
            self._upload(part, content)
            self.file_system.move(part, target)
        except OSError as error:
            with suppress(OSError):
                self.file_system.delete_file(part)
            if error.errno is not None:
                error.filename = target  # not set by PyArrow
            raise

    def _upload(self, path: str, content: bytes) -> None:
        stream = self.file_system.open_output_stream(path)
        stream.write(content)  # if this fails, the stream is not closed: closing would create the object
        stream.close()


def reason_of(error: BaseException) -> str:
    """The reason of an error, on one line."""
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
