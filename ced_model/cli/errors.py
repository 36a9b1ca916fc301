# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors of the user's doing end in one line on stderr and an exit code, never in a stack trace."""

import errno
import os
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

import typer

from ..engines import EngineError
from ..messages import OptionError

WRONG_USAGE = 2
FAILED = 1
INTERRUPTED = 130

P = ParamSpec("P")


class CliError(Exception):
    """Ends the command with its message, one line, on stderr: by default as wrong usage."""

    def __init__(self, message: str, exit_code: int = WRONG_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Decorates a command: errors of the user's doing and Ctrl-C become one line and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except CliError as error:
            fail(str(error), error.exit_code)
        except OptionError as error:
            fail(f"{flag(error.name)} {_shown(error.value)}: expected {error.expected}", WRONG_USAGE)
        except EngineError as error:
            fail(str(error), FAILED)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)
        except ImportError as error:
            if error.name is not None:  # not a message on what to install, but a mistake in an installed package
                raise
            fail(str(error), FAILED)
        except OSError as error:
            if error.errno == errno.EPIPE:  # `ced … | head`: typer ends the command quietly
                raise
            place = f"{os.fsdecode(error.filename)!r}: " if error.filename else ""
            fail(place + (error.strerror or str(error)), FAILED)

    return run


def flag(name: str) -> str:
    """The flag of a library's argument: `window_s` is `--window`, `num_threads` is `--threads`."""
    name = name.removeprefix("num_").removesuffix("_s")
    if name.startswith("thresholds"):  # of one class, or of all
        name = "threshold"
    return "--" + name.replace("_", "-")


def fail(message: str, exit_code: int) -> NoReturn:
    from .terminal import say

    say("ced: " + " ".join(message.split()))
    raise typer.Exit(exit_code)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
