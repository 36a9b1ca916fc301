# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Suppresses messages of libmpg123 about damaged MP3 files ("Trying to resync...") on standard error.

libsndfile has no option for it. libmpg123 prints to the C variable `stderr`, which is set to the null device while an
MP3 file is read. Python's `sys.stderr` and file descriptor 2 do not change, so other threads lose only messages that C
code prints at the same time.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_lock = threading.Lock()
_users = 0
_original: int | None = None


@contextmanager
def quiet_c_stderr() -> Iterator[None]:
    global _users, _original
    streams = _streams()
    if streams is None:
        yield
        return
    stderr, null = streams
    with _lock:
        _users += 1
        if _users == 1:
            _original, stderr.value = stderr.value, null
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                stderr.value = _original


@cache
def _streams() -> tuple[ctypes.c_void_p, int] | None:
    """The C variable `stderr` and a stream to the null device; None if it cannot be set (musl, Windows)."""
    try:
        libc = ctypes.CDLL(None)
        name = "stderr" if hasattr(libc, "gnu_get_libc_version") else "__stderrp"  # glibc, macOS
        stderr = ctypes.c_void_p.in_dll(libc, name)
        libc.fopen.restype = ctypes.c_void_p
        null = libc.fopen(os.devnull.encode(), b"w")
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return (stderr, null) if stderr.value and null else None


def _reset_after_fork() -> None:
    global _lock, _users
    if _users and (streams := _streams()) is not None:
        streams[0].value = _original
    _lock, _users = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
