# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the `ced` command as a process of its own, forked from one that has imported torch already."""

import multiprocessing
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["ced_model", "ced_model.cli.app", "ced_model.cli.tag", "rich.progress"])


Stream = str | Path | int | None  # a path, a file descriptor, or a stream that is closed, as by `>&-`


def start(
    arguments: Sequence[str | Path],
    *,
    stdin: Stream = os.devnull,
    stdout: Stream = os.devnull,
    stderr: Stream = os.devnull,
    max_file_size: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Starts `ced ARGUMENTS…` with standard streams that are files or terminals; `exitcode` is there after `join`."""
    # A Connection is what multiprocessing knows to hand a descriptor to a child with.
    streams = [
        stream if stream is None else Connection(os.dup(stream)) if isinstance(stream, int) else str(stream)
        for stream in (stdin, stdout, stderr)
    ]
    process = _context.Process(target=_run, args=([*map(str, arguments)], streams, max_file_size, environment or {}))
    process.start()
    return process


def _run(
    arguments: list[str],
    streams: list[str | Connection | None],
    max_file_size: int | None,
    environment: Mapping[str, str],
) -> None:
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
        if stream is not None:
            os.dup2(os.open(stream, flags, 0o644) if isinstance(stream, str) else stream.fileno(), number)
    for number, stream in enumerate(streams):
        if stream is None:
            os.close(number)
    # The server's own objects remember whether their files were terminals or could seek.
    sys.stdin = None if streams[0] is None else open(0, closefd=False)
    sys.stdout = None if streams[1] is None else open(1, "w", closefd=False)
    sys.stderr = None if streams[2] is None else open(2, "w", buffering=1, closefd=False)
    if max_file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, max_file_size))
    from ced_model.cli import main

    sys.argv = ["ced", *arguments]
    main()
