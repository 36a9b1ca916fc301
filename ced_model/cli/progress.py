# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress of a run: a bar on stderr if it is a terminal, and a summary."""

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..messages import clock
from .terminal import say, say_error

if TYPE_CHECKING:
    from ..input_list import Input
    from ..unfinished import Unfinished

REFRESH_S = 0.1
LONG_S = 120  # length of a single recording from which it has a bar


class RunProgress:
    """A context that shows inputs, hours of audio, speed (× real time) and remaining time."""

    def __init__(self, total: int, length_s: float | None = None) -> None:
        """`total`: number of inputs. `length_s`: length in seconds of a single input, if known."""
        self.total = total
        self.length_s = length_s
        self.done = self.failed = 0
        self.audio_s = 0.0
        self._start = self._refreshed = time.monotonic()
        self._bar: Any = None  # rich.progress.Progress

    def __enter__(self) -> "RunProgress":
        self._start = time.monotonic()
        if sys.stderr.isatty() and (self.total > 1 or (self.length_s or 0) >= LONG_S):
            self._bar = _make_bar()
            self._bar.add_task("", total=self.length_s or self.total, files=f"0/{self.total}", audio="", speed="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def add_audio(self, seconds: float) -> None:
        """Counts `seconds` of audio that were scored."""
        self.audio_s += seconds
        self._show()

    def count(self, failed: bool) -> None:
        """Counts a finished input."""
        self.done += 1
        self.failed += failed
        self._show()

    def keep(self, entries: Generator[dict[str, Any], None, None], unfinished: "Unfinished") -> None:
        """Counts entries and adds them to the journal. Those with an `error` are printed on stderr instead."""
        with self, closing(entries):  # also ends the threads that compute them
            try:
                for entry in entries:
                    error = entry.get("error")
                    self.count(failed=error is not None)
                    if error is None:
                        unfinished.add(entry)
                        continue
                    with self.hidden():
                        say_error(entry["file"], error)
            except KeyboardInterrupt as interruption:
                raise KeyboardInterrupt(unfinished.advice) from interruption

    def _show(self) -> None:
        if self._bar is None or time.monotonic() - self._refreshed < REFRESH_S:
            return
        self._refreshed = time.monotonic()
        completed = self.audio_s if self.length_s else self.done
        files = f"{self.done}/{self.total}"
        self._bar.update(0, completed=completed, files=files, audio=_length(self.audio_s), speed=self._speed())
        self._bar.refresh()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hides the bar while other text is written to the terminal."""
        if self._bar is None:
            yield
            return
        self._bar.live.stop()
        try:
            yield
        finally:
            self._bar.live.start(refresh=True)

    def summary(self, has_speed: bool = True) -> str:
        parts = [f"{self.done} of {self.total} inputs", f"{_length(self.audio_s)} of audio"]
        parts += [self._speed()] * has_speed + [f"{self.failed} failed"] * bool(self.failed)
        return ", ".join(parts)

    def _speed(self) -> str:
        return f"{self.audio_s / max(time.monotonic() - self._start, 1e-9):.3g} × real time"


def progress_of(inputs: list["Input"]) -> RunProgress:
    """The progress of a run. That of a single recording is measured by its length."""
    length_s = None
    if len(inputs) == 1 and inputs[0].error is None and inputs[0].place is None and sys.stderr.isatty():
        from ..audio import duration_s

        length_s = duration_s(inputs[0].source)
    return RunProgress(len(inputs), length_s)


def inputs_without_entry(inputs: list["Input"], unfinished: "Unfinished") -> list["Input"]:
    """The inputs that have no entry in the journal yet."""
    waiting = [item for item in inputs if item.name not in unfinished]
    if len(waiting) < len(inputs):
        say(f"{len(inputs) - len(waiting)} of {len(inputs)} inputs were already done")
    return waiting


def _length(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else clock(seconds)


def _make_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.fields[files]}"),
        TextColumn("{task.fields[audio]}"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
    )
