# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Support for forked processes (`multiprocessing` with the start method "fork", `DataLoader`, `Dataset.map(num_proc=…)`).

A fork has its parent's memory but only one of its threads: thread pools hang, and locks that other threads held are
never released.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any

_FIRST_PID = os.getpid()


class ForkError(RuntimeError):
    """Raised for objects of the parent process that cannot be used in a forked one. The message is one line."""


def is_forked() -> bool:
    """Whether this process was forked after this module was imported."""
    return os.getpid() != _FIRST_PID


_used_by: dict[str, int] = {}  # library → the process that first used it


def use_before_fork_only(library: str) -> None:
    """
    Records that this process uses a library that does not work in processes forked afterwards.

    Raises:
        ForkError: in such a forked process.
    """
    if _used_by.setdefault(library, os.getpid()) != os.getpid():
        raise ForkError(
            f"{library} cannot be used in a process that was forked after it was used: use the engine onnx, or start"
            ' processes by "spawn" or "forkserver"'
        )


def after_fork(function: Callable[[], None]) -> Callable[[], None]:
    """Calls `function` at the start of each process that is forked from this one."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(after_in_child=function)
    return function


def never_free(thing: Any) -> None:
    """Keeps an object until the process ends: in a fork, the destructor of a thread pool would wait forever."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
