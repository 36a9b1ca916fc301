# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Forked processes (`multiprocessing` with the start method "fork", `DataLoader`, `Dataset.map(num_proc=…)`).

A fork has its parent's memory but only one of its threads: thread pools never answer, and locks that another thread
held are never released.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any

_FIRST_PID = os.getpid()


class ForkError(RuntimeError):
    """Something of the parent process cannot be used in a forked one. The message is one line."""


def is_forked() -> bool:
    """Whether this process was forked from the one that imported this module."""
    return os.getpid() != _FIRST_PID


_used_by: dict[str, int] = {}  # library → the process that first used it


def use_before_fork_only(library: str) -> None:
    """
    Notes that this process uses a library that works in no process forked afterwards.

    Raises:
        ForkError: in such a process.
    """
    if _used_by.setdefault(library, os.getpid()) != os.getpid():
        raise ForkError(
            f"{library} cannot be used in a process that was forked after it was used: use the engine onnx, or start"
            ' processes by "spawn" or "forkserver"'
        )


def after_fork(function: Callable[[], None]) -> Callable[[], None]:
    """Calls `function` in each process that is forked from this one, before anything else there."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(after_in_child=function)
    return function


def never_free(thing: Any) -> None:
    """Keeps an object until the process ends: the destructor of a thread pool waits for threads that a fork lacks."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
