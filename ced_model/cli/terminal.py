# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""All text for people: lines on standard output and standard error, in which nothing reaches the terminal as a code."""

import errno
import logging
import os
import re
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
        BrokenPipeError: if nobody reads them any more.
    """
    text = "".join(f"{printable(line)}\n" for line in lines)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        refuse_stdout(error)


def put_json(text: str) -> None:
    """Prints JSON on standard output as it is: it has escapes of its own."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        refuse_stdout(error)


def refuse_stdout(error: OSError) -> NoReturn:
    """Raises what a failed write to standard output ends the command with."""
    if error.errno == errno.EPIPE:  # `ced … | head`: the command ends quietly
        raise error
    abandon_stdout()
    raise CliError(f"standard output: {error.strerror or error}", FAILED) from error


def abandon_stdout() -> None:
    """What is still buffered can go nowhere; without this, Python fails again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(*lines: str) -> None:
    """Prints lines on standard error, each made printable. Where that is closed or full there is nobody to tell."""
    try:
        for line in lines:
            print(printable(line), file=sys.stderr)
    except (OSError, ValueError):
        pass


def say_error(name: str, error: str) -> None:
    """Prints why an input failed."""
    say(f"{name}: {one_line(error)}")


class PrintableRecord(logging.LogRecord):
    """A log message without colours and control characters, whatever names are in it."""

    def getMessage(self) -> str:
        lines = COLOUR.sub("", super().getMessage()).split("\n")
        return "\n".join(map(printable, lines))


def prepare_process() -> None:
    """Makes a process fit to run commands: standard streams that are all there, and logs that are printable."""
    _open_closed_streams()
    logging.setLogRecordFactory(PrintableRecord)
    logging.captureWarnings(True)


def _open_closed_streams() -> None:
    """
    Opens standard streams that the caller closed (`ced … >&-`), so that no other file gets their descriptors.

    Reading and writing them fail, except that standard error takes everything: there is nobody to tell.
    """
    modes = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
    for descriptor, mode in enumerate(modes):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)  # the lowest that is free
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
