# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Windows of many inputs → batches of equal size → scores, with reading and computing side by side.

All windows of all inputs form one stream. Reader threads decode ahead of the model as far as a bounded number of
windows allows; batches hold windows of one size, so that nothing is ever padded; workers compute them in parallel.
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

MAX_WAITING = 10_000  # inputs and windows whose results are held back by a slow input before them: 20 MB of scores
NUM_READERS = 4  # more than there are cores, so that one slow file does not stall the others
READER_WAIT_S = 0.25  # for each to end; one that hangs in a broken file system is left behind


class Window(NamedTuple):
    """A piece of one input: samples `start` to `start + len(waveform)` of it."""

    position: int  # among the windows of its input
    start: int
    waveform: np.ndarray  # float32 of shape (samples,)
    log_mel: np.ndarray | None = None  # (n_mels, frames), if it shares frames with the window before it
    is_quiet: bool = False  # below a gate: not to be computed

    @property
    def content(self) -> np.ndarray:
        """What is computed: the waveform, or its log-mel spectrogram where that is known."""
        return self.waveform if self.log_mel is None else self.log_mel


class WindowScores(NamedTuple):
    """Scores of one window of one input."""

    input_index: int
    position: int
    start: int
    samples: int
    scores: np.ndarray


class InputEnd(NamedTuple):
    """All windows of an input were read; `error` is set if reading failed. Its last scores may still follow."""

    input_index: int
    windows: int
    error: Exception | None


def cut_windows(
    blocks: Iterable[np.ndarray], window: int, hop: int, min_samples: int, max_samples: int
) -> Iterator[Window]:
    """
    Cuts a waveform into windows that cover it without padding.

    The last window keeps its own length. If that would be less than `min_samples`, it is joined to the window before
    it. Where both together are longer than `max_samples`, the boundary between them moves instead, so that the last
    window has `min_samples`; if the one before it would then have less, the two overlap.

    Args:
        blocks: consecutive pieces of the waveform, float32 of shape `(samples,)`, of any length. Nothing is read
            further ahead than the rule for the last window needs, and no more than a window and a block is kept.
        window, hop: length of the windows and distance between their starts, in samples; `hop <= window`.
        min_samples, max_samples: what the model can look at, in samples.

    Yields:
        `Window`s in order. A waveform shorter than `min_samples` is one window as it is.
    """
    # A window may only be given away when what follows it is sure to be long enough for a window of its own.
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
    """
    The same blocks, float32 of shape `(samples,)`, none of whose samples is beyond ±`max_peak`.

    Raises:
        AudioError: at the block that has one.
    """
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
        inputs: what to read, taken one by one as readers become free.
        read: gives the windows of one input. An exception ends that input and no other.
        compute: scores of a list of the windows' `content`, waveforms or log-mel spectrograms, as an array with one row
            for each. Called from several threads.
        size_of: the size of a window of so many samples; a batch holds windows of one size.
        batch_size: windows per batch at most.
        num_workers: batches that are computed at the same time.

    Yields:
        `WindowScores` in whatever order they are ready, and one `InputEnd` for each input.

    Raises:
        Exceptions of `compute` and of iterating over `inputs`.
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
        if os.getpid() == run.pid:  # a forked process has no threads of ours, and locks may be held for ever there
            run.stop()
            for thread in workers:
                thread.join()
            for thread in readers:  # a process that ends while one is in native code would be aborted
                thread.join(READER_WAIT_S)


class InputScores:
    """
    The windows of one input as they are scored, in any order.

    Their bounds in samples, `(windows, 2)`, and their scores, `(windows, classes)`, grow in place, so that those of a
    long recording are never in memory twice.
    """

    def __init__(self) -> None:
        self.spans = np.zeros((0, 2), np.int64)
        self.scores = np.zeros((0, 0), np.float32)
        self.windows = 0
        self.scored_to = 0
        self.not_finite: WindowScores | None = None  # the earliest window with scores that are not finite
        self.end: InputEnd | None = None

    def add(self, window: WindowScores) -> int:
        """Returns the samples that `window` adds behind all windows before it; what is overtaken counts as scored."""
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
        """Drops the room for more windows."""
        self.end = end
        self._resize(self.windows, self.scores.shape[1])
        return self

    @property
    def error(self) -> Exception | None:
        return None if self.end is None else self.end.error

    def average(self, how: str) -> np.ndarray:
        """Scores of the clip from those of its windows: the mean weighted by their length, or the maximum."""
        if len(self.scores) == 1:
            return self.scores[0]
        if how == "max":
            return self.scores.max(axis=0)
        weights = (self.spans[:, 1] - self.spans[:, 0]).astype(np.float64)
        # Not a matrix product: OpenBLAS would start threads, which do not survive a fork.
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
    Scores inputs in their order, each as soon as it and all before it are ready.

    Args:
        inputs, read, size_of, batch_size, num_workers: as for [`score_windows`].
        compute: as for [`score_windows`]; with `is_alone=True` nothing else is computed at the same time.
        sampling_rate: of the windows in Hz.
        name_of: the name of an input in the error that it has if some scores are not finite.
        on_audio: called with the seconds of audio whenever some more were scored.

    Yields:
        The input and its scores.
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

    # Whether a generator has a second input is not known before it comes.
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
            # Inputs that were begun are read to their end, so that the one which all wait for is never held up.
            (has_room.set if num_waiting < MAX_WAITING else has_room.clear)()
    finally:
        if os.getpid() == pid:
            is_over.set()
            has_room.set()
            messages.close()


def check_scores(scores: np.ndarray, name: str, start_s: float) -> None:
    """Raises an AudioError if scores `(classes,)` of the window of `name` at `start_s` are NaN or infinite."""
    if not np.isfinite(scores).all():
        raise AudioError(
            f"{name}: the model's scores are NaN or infinite (from {start_s:.1f} s on); a model in half precision may"
            " need float32"
        )


def without_variables(error: Exception) -> Exception:
    """An error that was just caught, with its traceback, but without the audio in the variables of its functions."""
    # The first frame is the caller's own, which still runs.
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error


class _Run:
    """State of one `score_windows`: readers and workers send messages, and the caller's thread makes the batches."""

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
        self.stopped = threading.Event()
        # Windows in memory: what the workers compute, as much again in waiting, and some to choose batches from.
        self.room = threading.Semaphore((2 * num_workers + 2) * batch_size)
        self.messages: SimpleQueue[Any] = SimpleQueue()
        self.batches: SimpleQueue[list[tuple[int, Window]] | None] = SimpleQueue()

    def read_inputs(self) -> None:
        """A reader thread."""
        try:
            while not self.stopped.is_set():
                with self.input_lock:
                    item = next(self.inputs, None)
                if item is None:
                    break
                self._read_input(*item)
                del item
        except BaseException as error:  # of the caller's own iterator
            self.messages.put(error)
        self.messages.put(_READER_ENDED)

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
                # Nothing is ready and a worker is idle: a smaller batch now is better than waiting.
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

    def _next_message(self, wait: bool) -> Any:
        if os.getpid() != self.pid:
            raise ForkError("these results were begun before the process was forked: begin again in the new process")
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
        """Lets all threads end: readers after the window at hand, workers after the batch at hand."""
        self.stopped.set()
        self.room.release(NUM_READERS)
        while True:  # batches that wait are not wanted any more
            try:
                self.batches.get_nowait()
            except Empty:
                break
        for _ in range(self.num_workers):
            self.batches.put(None)
