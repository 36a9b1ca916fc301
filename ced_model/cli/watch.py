# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --watch`: the audio files of a folder, each as soon as it is complete."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..packages import require
from .errors import CliError
from .terminal import say

if TYPE_CHECKING:
    from ..input_list import Input

SETTLE_S = 2.0  # a file whose size and time have not changed for this long is complete
TICK_MS = 500
RESCAN_S = 30.0  # network drives report no changes, and the system's queue of changes can overflow

State = tuple[int, int]  # size and modification time


class Watch:
    """
    Watches a folder until Ctrl-C or SIGTERM; the file in progress is finished first.

    Attributes:
        is_done: Whether the file of this name is tagged. A failed file is tagged again when it changes.
        stopped: Set by the signals.
    """

    def __init__(self, folder: str) -> None:
        require(("watchfiles",), "--watch")
        if not os.path.isdir(folder):
            raise CliError(f"--watch {folder}: expected a folder")
        self.folder = folder
        self.is_done: Callable[[str], bool] = lambda name: False
        self.stopped = threading.Event()
        self._pending: dict[str, tuple[State, float]] = {}  # state, and the time since it has not changed
        self._taken: dict[str, State] = {}

    @contextmanager
    def signals(self) -> Iterator[None]:
        """A context in which the first Ctrl-C sets `stopped`, and the second one interrupts."""

        def stop(number: int, _: Any) -> None:
            if self.stopped.is_set():
                raise KeyboardInterrupt
            self.stopped.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def batches(self) -> Iterator[list["Input"]]:
        """Yields files as soon as they are complete."""
        from watchfiles import watch

        from ..audio import walk_audio
        from ..input_list import find_inputs

        say(f"watching {self.folder} for new files: stop with Ctrl-C")
        real = os.path.realpath(self.folder)
        scanned = -RESCAN_S
        options: dict[str, Any] = {"stop_event": self.stopped, "raise_interrupt": False, "watch_filter": None}
        for changes in watch(real, yield_on_timeout=True, rust_timeout=TICK_MS, debounce=TICK_MS, **options):
            if time.monotonic() - scanned >= RESCAN_S:
                found, scanned = walk_audio(self.folder, []), time.monotonic()
            else:
                inside = (os.path.relpath(path, real) for _, path in changes)
                found = (os.path.join(self.folder, path) for path in inside if _is_wanted(path))
            for path in found:
                self._pending.setdefault(path, ((-1, -1), 0.0))
            ready = sorted(filter(self._is_complete, list(self._pending)))
            items = [item for path in ready for item in find_inputs([path])]
            for path in ready:
                self._taken[path] = self._pending.pop(path)[0]
            if items := [item for item in items if not self.is_done(item.name)]:
                yield items

    def _is_complete(self, path: str) -> bool:
        """Whether a file is complete. Removes deleted and tagged files from the pending ones."""
        now = time.monotonic()
        try:
            status = os.stat(path)
        except OSError:
            del self._pending[path]
            return False
        state = status.st_size, status.st_mtime_ns
        known, since = self._pending[path]
        if self._taken.get(path) == state or not os.path.isfile(path):
            del self._pending[path]
            return False
        if state != known:
            is_old = known == (-1, -1) and time.time() - max(status.st_mtime, status.st_ctime) > SETTLE_S
            self._pending[path] = state, now - SETTLE_S if is_old else now
        return now - self._pending[path][1] >= SETTLE_S


def _is_wanted(path: str) -> bool:
    """Whether a relative path is that of an audio file without hidden parts."""
    from ..audio import is_audio_name

    return is_audio_name(path) and not any(part.startswith(".") for part in path.split(os.sep))
