# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Lines on standard output and standard error, without control characters for the terminal."""

import errno
import logging
import os
import re
import shlex
import subprocess
import sys
from typing import NoReturn

from ..messages import one_line as one_line
from ..messages import printable
from .errors import FAILED, CliError

COLOUR = re.compile(r"\x1b\[[\d;]*m")


def put(*lines: str) -> None:
    """
    Prints lines on standard output, each made printable.

    Raises:
        CliError: if they cannot be written.
        BrokenPipeError: if the reader has closed the pipe.
    """
    text = "".join(f"{printable(line)}\n" for line in lines)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        refuse_stdout(error)


def put_json(text: str) -> None:
    """Prints JSON on standard output unchanged, since JSON escapes control characters."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        refuse_stdout(error)


def refuse_stdout(error: OSError) -> NoReturn:
    """Raises the error for a failed write to standard output."""
    if error.errno == errno.EPIPE:  # `ced … | head`: the command ends quietly
        raise error
    abandon_stdout()
    raise CliError(f"standard output: {error.strerror or error}", FAILED) from error


def abandon_stdout() -> None:
    """Discards buffered output. Otherwise Python would fail to write it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(*lines: str) -> None:
    """Prints lines on standard error, each made printable. Failures to write them are ignored."""
    try:
        for line in lines:
            print(printable(line), file=sys.stderr)
    except (OSError, ValueError):
        pass


def say_error(name: str, error: str) -> None:
    """Prints why an input failed."""
    say(f"{name}: {one_line(error)}")


def quoted(argument: str) -> str:
    """An argument for a command line that the user can copy."""
    return subprocess.list2cmdline([argument]) if os.name == "nt" else shlex.quote(argument)


class PrintableRecord(logging.LogRecord):
    """A log record whose message has no colours and control characters."""

    def getMessage(self) -> str:
        lines = COLOUR.sub("", super().getMessage()).split("\n")
        return "\n".join(map(printable, lines))


def prepare_process() -> None:
    """Prepares a process for commands: opens closed standard streams, and makes log messages printable."""
    _open_closed_streams()
    logging.setLogRecordFactory(PrintableRecord)
    logging.captureWarnings(True)


def _open_closed_streams() -> None:
    """
    Opens standard streams that the caller closed (`ced … >&-`), so that no other file gets their descriptors.

    Reading standard input and writing standard output fail. Text on standard error is discarded.
    """
    modes = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
    for descriptor, mode in enumerate(modes):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)  # the lowest free descriptor
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
