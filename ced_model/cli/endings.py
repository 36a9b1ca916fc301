# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can correct: one line on stderr and an exit code instead of a stack trace."""

import errno
import os
import re
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

import typer

from ..messages import OptionError, RunError, UsageError
from .errors import FAILED, INTERRUPTED, WRONG_USAGE, CliError
from .terminal import say

TORCH = ("torch", "transformers")  # not in every installation
INSTALL_TORCH = "pip install torch torchaudio transformers"

P = ParamSpec("P")


def one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Decorates a command: expected errors and Ctrl-C become one line and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            end_with(error)

    return run


def end_with(error: BaseException) -> NoReturn:
    """Ends the command with the message of an error. Unexpected errors, which are bugs, are raised again."""
    if isinstance(error, CliError):
        fail(str(error), error.exit_code)
    if isinstance(error, OptionError):
        fail(f"{flag(error.name)} {_shown(error.value)}: expected {error.expected}", WRONG_USAGE)
    if isinstance(error, UsageError):
        fail(str(error), WRONG_USAGE)
    if isinstance(error, KeyboardInterrupt):
        fail("; ".join(filter(None, ["interrupted", str(error)])), INTERRUPTED)
    if isinstance(error, OSError) and error.errno != errno.EPIPE:  # `ced … | head`: typer ends the command quietly
        place = f"{os.fsdecode(error.filename)!r}: " if error.filename else ""
        fail(place + (error.strerror or str(error)), FAILED)
    if isinstance(error, ModuleNotFoundError) and error.name in TORCH:
        fail(f"this command requires {' and '.join(TORCH)}: {INSTALL_TORCH}", FAILED)
    if isinstance(error, ValueError | RunError) or (isinstance(error, ImportError) and error.name is None):
        fail(str(error), FAILED)
    raise error


def flag(name: str) -> str:
    """The flag of a library's argument: `window_s` is `--window`, `num_threads` is `--threads`."""
    name = name.removeprefix("num_").removesuffix("_s")
    if name.startswith("thresholds"):  # or `thresholds[Dog]`
        name = "threshold"
    name = name.partition("[")[0]
    return "--" + name.replace("_", "-")


def with_flags(message: str) -> str:
    """A message of the library with flags for arguments: `` `overwrite=True` `` is --overwrite."""
    return re.sub(r"`(\w+)=(?:True|…)`", lambda argument: flag(argument[1]), message)


def fail(message: str, exit_code: int) -> NoReturn:
    message = with_flags(" ".join(message.split()))
    say("ced: " + (message if ". " in message else message.removesuffix(".")))
    raise typer.Exit(exit_code)


def _shown(value: object) -> str:
    if value is None:
        return "is not given"
    return f"{value:g}" if isinstance(value, float) else str(value)
