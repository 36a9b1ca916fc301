# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores windows of many inputs in batches, with reading and computing in parallel.

Reader threads decode inputs ahead of the model, up to a limited number of windows. Worker threads compute batches of
windows of the same size, so that no padding is needed.
"""

import os
import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from functools import partial
from itertools import chain, islice
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from .audio import AudioError
from .forking import ForkError, is_forked

_NOTHING_YET = object()
_READER_ENDED = object()

MAX_WAITING = 10_000  # inputs and windows with results that wait for a slow input before them: 20 MB of scores
NUM_READERS = 4  # more than cores, so that a slow file does not block the others
READER_WAIT_S = 0.25  # for a reader to end; one that hangs in a broken file system is abandoned


class Window(NamedTuple):
    """Samples `start` to `start + len(waveform)` of one input."""

    position: int  # among the windows of its input
    start: int
    waveform: np.ndarray  # float32 of shape (samples,)
    log_mel: np.ndarray | None = None  # (n_mels, frames), if computed together with overlapping windows
    is_quiet: bool = False  # below the gate: not computed

    @property
    def content(self) -> np.ndarray:
        """The input of the computation: the log-mel spectrogram if it is known, else the waveform."""
        return self.waveform if self.log_mel is None else self.log_mel


class WindowScores(NamedTuple):
    """Scores of one window of one input."""

    input_index: int
    position: int
    start: int
    samples: int
    scores: np.ndarray


class InputEnd(NamedTuple):
    """The end of an input; `error` is set if reading failed. Scores of its last windows may still follow."""

    input_index: int
    windows: int
    error: Exception | None


def cut_windows(
    blocks: Iterable[np.ndarray], window: int, hop: int, min_samples: int, max_samples: int
) -> Iterator[Window]:
    """
    Splits a waveform into windows that cover it without padding.

    The last window may be shorter. If it would be shorter than `min_samples`, it is joined to the window before it. If
    both together are longer than `max_samples`, the boundary between them moves instead, so that the last window has
    `min_samples`; if the one before it would then be too short, the two overlap.

    Args:
        blocks: Consecutive pieces of the waveform, float32 of shape `(samples,)`, of any length. At most one window and
            one block are kept in memory.
        window, hop: Length of the windows and distance between their starts, in samples; `hop <= window`.
        min_samples, max_samples: Range of window lengths of the model, in samples.

    Yields:
        `Window`s in order. A waveform shorter than `min_samples` is one window.
    """
    # A window is yielded only when the rest is long enough for another window.
    look_ahead = max(0, min_samples - (window - hop))
    buffer = np.zeros(0, np.float32)
    start = position = covered = 0
    for block in blocks:
        buffer = np.concatenate([buffer, block]) if len(buffer) else block
        while len(buffer) >= window + look_ahead:
            yield Window(position, start, buffer[:window].copy())
            covered = start + window
            position, start, buffer = position + 1, start + hop, buffer[hop:]
    end = start + len(buffer)
    while covered < end:
        left = end - start
        size, step = window, hop
        if left <= window or (left - hop < min_samples and left <= max_samples):
            size = step = left
        elif left - hop < min_samples:
            step = left - min_samples
            size = max(step, min_samples)
        yield Window(position, start, buffer[:size].copy())
        covered = start + size
        position, start, buffer = position + 1, start + step, buffer[step:]


def check_peaks(blocks: Iterable[np.ndarray], max_peak: float, sampling_rate: int, name: str) -> Iterator[np.ndarray]:
    """Yields the blocks, float32 of shape `(samples,)`; raises an AudioError at a sample beyond ±`max_peak`."""
    position = 0
    for block in blocks:
        if len(block) and not max(block.max(), -block.min()) <= max_peak:  # nor NaN
            first = int(np.argmin(np.abs(block) <= max_peak))
            raise AudioError(
                f"{name}: the sample {block[first]:.3g} at {(position + first) / sampling_rate:.3f} s is too large to"
                " compute with: scale the audio to [-1, 1]"
            )
        position += len(block)
        yield block


def score_windows(
    inputs: Iterable[Any],
    read: Callable[[Any], Iterator[Window]],
    compute: Callable[[list[np.ndarray]], np.ndarray],
    size_of: Callable[[int], int],
    *,
    batch_size: int,
    num_workers: int,
) -> Generator[WindowScores | InputEnd, None, None]:
    """
    Scores all windows of all inputs.

    Args:
        inputs: The inputs, taken one by one by the readers.
        read: Yields the windows of one input. An exception ends only this input.
        compute: Returns an array with one row of scores per window, for a list of the windows' `content`. Called from
            several threads.
        size_of: Returns the size of a window with this many samples; a batch has windows of one size.
        batch_size: Maximum number of windows per batch.
        num_workers: Number of batches computed at the same time.

    Yields:
        `WindowScores` as soon as they are ready, in any order, and one `InputEnd` per input.

    Raises:
        Exceptions of `compute`, and of iterating over `inputs` after the scores of the inputs before them.
    """
    run = _Run(iter(inputs), read, compute, size_of, batch_size, num_workers)
    readers = [threading.Thread(target=run.read_inputs, name=f"ced-reader-{i}") for i in range(NUM_READERS)]
    workers = [threading.Thread(target=run.work, name=f"ced-worker-{i}") for i in range(num_workers)]
    for thread in readers + workers:
        thread.daemon = True  # a reader that hangs in a broken file system must not keep the process alive
        thread.start()
    try:
        yield from run.results()
    finally:
        if os.getpid() == run.pid:  # a forked process lacks these threads, and locks may never be released
            run.stop()
            for thread in workers:
                thread.join()
            for thread in readers:  # the process would be aborted if it ended while one is in native code
                thread.join(READER_WAIT_S)


class InputScores:
    """
    Collects the scores of one input's windows, in any order.

    The bounds in samples, `(windows, 2)`, and the scores, `(windows, classes)`, grow in place, so that those of a long
    recording are never in memory twice.
    """

    def __init__(self) -> None:
        self.spans = np.zeros((0, 2), np.int64)
        self.scores = np.zeros((0, 0), np.float32)
        self.windows = 0
        self.scored_to = 0
        self.not_finite: WindowScores | None = None  # the earliest window with scores that are not finite
        self.end: InputEnd | None = None

    def add(self, window: WindowScores) -> int:
        """Adds a window, and returns by how many samples it extends the audio scored so far (up to its end)."""
        if window.position >= len(self.spans):
            self._resize(max(window.position + 1, len(self.spans) * 5 // 4), len(window.scores))
        end = window.start + window.samples
        self.spans[window.position] = window.start, end
        self.scores[window.position] = window.scores
        self.windows += 1
        if not np.isfinite(window.scores).all() and (self.not_finite is None or window.start < self.not_finite.start):
            self.not_finite = window
        before, self.scored_to = self.scored_to, max(self.scored_to, end)
        return self.scored_to - before

    def _resize(self, windows: int, classes: int) -> None:
        self.spans.resize((windows, 2), refcheck=False)
        self.scores.resize((windows, classes), refcheck=False)

    @property
    def is_complete(self) -> bool:
        return self.end is not None and self.windows == self.end.windows

    def finish(self, end: InputEnd) -> "InputScores":
        """Frees the memory reserved for more windows."""
        self.end = end
        self._resize(self.windows, self.scores.shape[1])
        return self

    @property
    def error(self) -> Exception | None:
        return None if self.end is None else self.end.error

    def average(self, how: str) -> np.ndarray:
        """Scores of the clip: the mean of its windows' scores, weighted by their length, or the maximum."""
        if len(self.scores) == 1:
            return self.scores[0]
        if how == "max":
            return self.scores.max(axis=0)
        weights = (self.spans[:, 1] - self.spans[:, 0]).astype(np.float64)
        # Not a matrix product, for which OpenBLAS would start threads, which do not survive a fork.
        return (np.einsum("w,wc->c", weights, self.scores) / weights.sum()).astype(np.float32)


def score_inputs(
    inputs: Iterable[Any],
    read: Callable[[Any], Iterator[Window]],
    compute: Callable[..., np.ndarray],
    size_of: Callable[[int], int],
    *,
    batch_size: int,
    num_workers: int,
    sampling_rate: int,
    name_of: Callable[[Any], str],
    on_audio: Callable[[float], object] | None = None,
) -> Iterator[tuple[Any, InputScores]]:
    """
    Scores inputs. Yields each input and its scores, in order, as soon as it and all before it are ready.

    Args:
        inputs, read, size_of, batch_size, num_workers: As for [`score_windows`].
        compute: As for [`score_windows`]; with `is_alone=True`, no other thread computes at the same time.
        sampling_rate: Sampling rate of the windows in Hz.
        name_of: Returns the name of an input for its error if some scores are not finite.
        on_audio: Called with the number of seconds each time more audio has been scored.
    """

    def add(state: InputScores, window: WindowScores) -> None:
        if (samples := state.add(window)) and on_audio is not None:
            on_audio(samples / sampling_rate)

    def finish(state: InputScores, end: InputEnd, source: Any) -> InputScores:
        if end.error is None and (window := state.not_finite) is not None:
            try:
                check_scores(window.scores, name_of(source), window.start / sampling_rate)
            except AudioError as error:
                end = end._replace(error=error)
        return state.finish(end)

    # Whether a generator has a second input is only known once it yields it.
    if isinstance(inputs, Sized) and len(inputs) == 1:
        (source,) = inputs
        try:
            windows = read(source)
            head = list(islice(windows, 2))
        except Exception as error:
            yield source, InputScores().finish(InputEnd(0, 0, without_variables(error)))
            return
        if len(head) == 1:  # a single window is not worth starting threads for
            state, window = InputScores(), head[0]
            scores = compute([window.content], is_alone=not is_forked())[0]
            add(state, WindowScores(0, window.position, window.start, len(window.waveform), scores))
            yield source, finish(state, InputEnd(0, 1, None), source)
            return
        windows = chain((head.pop(0) for _ in range(len(head))), windows)  # popped: no variable keeps the audio
        inputs, read = [source], partial(lambda windows, _: windows, windows)

    sources: dict[int, Any] = {}
    has_room, is_over = threading.Event(), threading.Event()
    has_room.set()

    def remember() -> Iterator[Any]:
        for index, source in enumerate(inputs):
            sources[index] = source
            yield source
            has_room.wait()
            if is_over.is_set():
                return

    pid = os.getpid()
    waiting: dict[int, InputScores] = {}
    next_index = num_waiting = 0
    messages = score_windows(remember(), read, compute, size_of, batch_size=batch_size, num_workers=num_workers)
    try:
        for message in messages:
            state = waiting.setdefault(message.input_index, InputScores())
            if isinstance(message, InputEnd):
                state.end = message
            else:
                add(state, message)
            num_waiting += 1
            while (ready := waiting.get(next_index)) is not None and ready.is_complete:
                assert ready.end is not None
                del waiting[next_index]
                num_waiting -= 1 + ready.windows
                source = sources.pop(next_index)
                yield source, finish(ready, ready.end, source)
                next_index += 1
            # Only new inputs wait. Inputs in progress are read to their end, so that the first one is never blocked.
            (has_room.set if num_waiting < MAX_WAITING else has_room.clear)()
    finally:
        if os.getpid() == pid:
            is_over.set()
            has_room.set()
            messages.close()


def check_scores(scores: np.ndarray, name: str, start_s: float) -> None:
    """Raises an AudioError if the scores `(classes,)` of the window at `start_s` of `name` are NaN or infinite."""
    if not np.isfinite(scores).all():
        raise AudioError(
            f"{name}: the model's scores are NaN or infinite (from {start_s:.1f} s on); a model in half precision may"
            " need float32"
        )


def without_variables(error: Exception) -> Exception:
    """A caught error with its traceback, but without the local variables of its functions, which hold audio."""
    # The first frame is that of the caller, which is still running.
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error


class _Run:
    """State of [`score_windows`]: readers and workers send messages to the caller's thread, which makes batches."""

    def __init__(
        self,
        inputs: Iterator[Any],
        read: Callable[[Any], Iterator[Window]],
        compute: Callable[[list[np.ndarray]], np.ndarray],
        size_of: Callable[[int], int],
        batch_size: int,
        num_workers: int,
    ) -> None:
        self.inputs = enumerate(inputs)
        self.read = read
        self.compute = compute
        self.size_of = size_of
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pid = os.getpid()
        self.input_lock = threading.Lock()
        self.input_error: Exception | None = None  # of the caller's iterator
        self.stopped = threading.Event()
        # Windows in memory: the batches being computed, as many waiting, and some to choose batches from.
        self.room = threading.Semaphore((2 * num_workers + 2) * batch_size)
        self.messages: SimpleQueue[Any] = SimpleQueue()
        self.batches: SimpleQueue[list[tuple[int, Window]] | None] = SimpleQueue()

    def read_inputs(self) -> None:
        """A reader thread."""
        try:
            while not self.stopped.is_set():
                if (item := self._next_input()) is None:
                    break
                self._read_input(*item)
                del item
        except BaseException as error:  # such as SystemExit in the caller's iterator
            self.messages.put(error)
        self.messages.put(_READER_ENDED)

    def _next_input(self) -> tuple[int, Any] | None:
        with self.input_lock:
            try:
                return next(self.inputs, None)
            except Exception as error:
                self.input_error, self.inputs = error, enumerate(())
                return None

    def _read_input(self, input_index: int, source: Any) -> None:
        windows, error, window = 0, None, None
        try:
            for window in self.read(source):
                self.room.acquire()
                if self.stopped.is_set():
                    return
                windows += 1
                self.messages.put((input_index, window))
        except Exception as caught:
            error = without_variables(caught)
        del source, window  # from Python 3.12 on, the frames of a generator that failed keep the one that resumed it
        self.messages.put(InputEnd(input_index, windows, error))

    def work(self) -> None:
        """A worker thread."""
        try:
            while (batch := self.batches.get()) is not None:
                rows = self.compute([window.content for _, window in batch])
                self.messages.put(
                    [
                        WindowScores(input_index, window.position, window.start, len(window.waveform), row)
                        for (input_index, window), row in zip(batch, rows, strict=True)
                    ]
                )
                self.room.release(len(batch))
        except BaseException as error:
            self.messages.put(error)

    def results(self) -> Iterator[WindowScores | InputEnd]:
        groups: OrderedDict[int, deque[tuple[int, Window]]] = OrderedDict()
        readers, in_flight = NUM_READERS, 0
        while readers or groups or in_flight:
            message = self._next_message(wait=in_flight >= self.num_workers or not groups)
            if message is _NOTHING_YET:
                # No full batch is ready and a worker is idle: submit a smaller batch instead of waiting.
                self._submit(groups, next(iter(groups)))
                in_flight += 1
            elif isinstance(message, BaseException):
                raise message
            elif message is _READER_ENDED:
                readers -= 1
            elif isinstance(message, InputEnd):
                yield message
            elif isinstance(message, list):
                in_flight -= 1
                yield from message
            else:
                size = self.size_of(len(message[1].waveform))
                groups.setdefault(size, deque()).append(message)
            for size in [size for size, group in groups.items() if len(group) >= self.batch_size]:
                self._submit(groups, size)
                in_flight += 1
        if self.input_error is not None:
            raise self.input_error

    def _next_message(self, wait: bool) -> Any:
        if os.getpid() != self.pid:
            raise ForkError("iteration over these results began before the process was forked: start a new one")
        try:
            return self.messages.get(block=wait)
        except Empty:
            return _NOTHING_YET

    def _submit(self, groups: OrderedDict[int, deque[tuple[int, Window]]], size: int) -> None:
        group = groups.pop(size)
        self.batches.put([group.popleft() for _ in range(min(len(group), self.batch_size))])
        if group:
            groups[size] = group

    def stop(self) -> None:
        """Stops all threads: readers after the current window, workers after the current batch."""
        self.stopped.set()
        self.room.release(NUM_READERS)
        while True:  # drop waiting batches
            try:
                self.batches.get_nowait()
            except Empty:
                break
        for _ in range(self.num_workers):
            self.batches.put(None)
