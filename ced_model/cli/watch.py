# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --watch`: a folder's audio files, each once it is there and complete."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..packages import require
from .errors import CliError

if TYPE_CHECKING:
    from ..input_list import Input

SETTLE_S = 2.0  # without a change of size or time, after which a file is complete
TICK_MS = 500
RESCAN_S = 30.0  # network drives and full queues of the system report no changes

State = tuple[int, int]  # size and modification time


class Watch:
    """
    A folder that is watched until Ctrl-C, or SIGTERM, ends it after the file at work.

    Attributes:
        is_done: Whether a file of this name needs no further work; one that failed is tagged again if it changes.
        stopped: Set by the signals.
    """

    def __init__(self, folder: str) -> None:
        require(("watchfiles",), "--watch")
        if not os.path.isdir(folder):
            raise CliError(f"--watch needs a folder, and {folder!r} is none")
        self.folder = folder
        self.is_done: Callable[[str], bool] = lambda name: False
        self.stopped = threading.Event()
        self._pending: dict[str, tuple[State, float]] = {}  # and since when it is so
        self._taken: dict[str, State] = {}

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within this context, the first Ctrl-C sets `stopped`."""

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
        """Files that are complete, as soon as they are."""
        from watchfiles import watch

        from ..audio import walk_audio
        from ..input_list import find_inputs

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
        """Whether a file has settled. Files that are gone or already tagged are no longer pending."""
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
    """Whether a path within the folder is that of an audio file, and nothing in it is hidden."""
    from ..audio import is_audio_name

    return is_audio_name(path) and not any(part.startswith(".") for part in path.split(os.sep))
