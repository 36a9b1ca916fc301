# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Schedules requests: a few run at a time, some wait, and further ones are refused."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from ..engines import Engine, Outputs
from ..tagger import AudioTagger
from . import metrics
from .settings import ClientGone, Refusal, Settings
from .sound import Budget

MAX_RETRY_S = 60
# Maximum length, in frames of 10 ms, of windows that share batches. According to `benchmarks/serving.py --batching`,
# longer ones do not become faster with ONNX Runtime; with the other engines, all do.
BATCHED_FRAMES = {"onnx": 300}
T = TypeVar("T")


class _Call:
    """Windows of one request, `(windows, n_mels, frames)`, and later their outputs or an error."""

    def __init__(self, log_mels: np.ndarray) -> None:
        self.log_mels = log_mels
        self.is_taken = False
        self.result: Outputs | BaseException | None = None


class SharedEngine:
    """
    Shares an engine between requests, with the same results.

    On a CPU, a single call uses all threads, and simultaneous calls one each; on a GPU they run in sequence. Waiting
    calls with windows of the same length are computed as one batch if that is faster. A call never waits for future
    ones.
    """

    def __init__(self, engine: Engine, num_threads: int, batch_size: int) -> None:
        self.name, self.compute_type, self.device = engine.name, engine.compute_type, engine.device
        self._engine = engine
        self._batch_size, self._batched_frames = batch_size, BATCHED_FRAMES.get(engine.name, math.inf)
        self._free = self._turns = num_threads if engine.device == "cpu" else 1
        self._waiting: list[_Call] = []
        self._changed = threading.Condition()

    def run(self, log_mels: np.ndarray, is_alone: bool) -> Outputs:
        call = _Call(log_mels)
        with self._changed:
            self._waiting.append(call)
            self._changed.wait_for(lambda: call.result is not None or (self._free and not call.is_taken))
            if call.result is None:
                is_alone = is_alone and self._free == self._turns
                self._free -= 1
                batch = self._take_batch(call)
        if call.result is None:
            self._compute(batch, is_alone)
        if isinstance(call.result, BaseException):
            raise call.result
        assert call.result is not None
        return call.result

    def _take_batch(self, first: _Call) -> list[_Call]:
        """Takes the calls of the next batch from the queue."""
        batch, windows = [first], len(first.log_mels)
        for other in self._waiting if first.log_mels.shape[2] <= self._batched_frames else ():
            fits = other.log_mels.shape[1:] == first.log_mels.shape[1:]
            if other is not first and fits and windows + len(other.log_mels) <= self._batch_size:
                batch.append(other)
                windows += len(other.log_mels)
        for call in batch:
            call.is_taken = True
            self._waiting.remove(call)
        return batch

    def _compute(self, batch: list[_Call], is_alone: bool) -> None:
        results: list[Outputs | BaseException] = []
        try:
            outputs = self._engine.run(np.concatenate([call.log_mels for call in batch]), is_alone)
            borders = np.cumsum([len(call.log_mels) for call in batch])[:-1]
            parts = ([None] * len(batch) if each is None else np.split(each, borders) for each in outputs)
            results += map(Outputs, *parts)
        except BaseException as error:
            results += [error] * len(batch)
        with self._changed:
            for call, result in zip(batch, results, strict=True):
                call.result = result
            self._free += 1
            self._changed.notify_all()


def share_engine(tagger: AudioTagger) -> None:
    """Prepares a tagger for requests from several threads."""
    if not isinstance(tagger._engine, SharedEngine):
        tagger._engine = SharedEngine(tagger._engine, tagger.num_threads, tagger.batch_size)


class Work:
    """
    Runs the requests of one process.

    Args:
        settings: Limits.
        running: Maximum number of simultaneous requests.
    """

    def __init__(self, settings: Settings, running: int) -> None:
        self.settings, self.running = settings, running
        self.threads = ThreadPoolExecutor(running, "ced-request")
        self._slots = asyncio.Semaphore(running)
        self._waiting = 0
        self._usual_s = 0.1  # moving average of the time of a request

    async def run(self, receive: Callable[[], Awaitable[Any]], function: Callable[[Budget], T]) -> T:
        """
        Waits for a free place, and then calls a function in another thread.

        Args:
            receive: `receive` of the request, after its body was read. If the client disconnects, work is cancelled.
            function: Called with a [`Budget`], which it must check regularly.

        Raises:
            Refusal: if too many requests are waiting, or no place becomes free in time.
            ClientGone: if the client closes the connection.
        """
        await self._take_turn()
        gone: asyncio.Future[Any] = asyncio.ensure_future(_until_gone(receive))
        budget, began = Budget(self.settings), time.monotonic()
        try:
            await asyncio.sleep(0)
            if gone.done():
                raise ClientGone
            future: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(self.threads, function, budget)
            try:
                await asyncio.wait({future, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not future.done():  # the place is released when the thread ends
                    budget.is_cancelled = True
                    await asyncio.wait({future})
            if gone.done() and budget.is_cancelled:
                future.exception()
                raise ClientGone
            return future.result()
        finally:
            gone.cancel()
            self._usual_s += 0.1 * (time.monotonic() - began - self._usual_s)
            metrics.RUNNING.dec()
            self._slots.release()

    async def _take_turn(self) -> None:
        if self._slots.locked():
            if self._waiting >= self.settings.max_waiting:
                raise Refusal(503, f"{self._waiting} requests are already waiting", self._retry_s())
            self._waiting += 1
            metrics.WAITING.inc()
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    await self._slots.acquire()
            except TimeoutError:
                raise Refusal(
                    503, f"the request waited longer than {self.settings.timeout_s:g} s", self._retry_s()
                ) from None
            finally:
                self._waiting -= 1
                metrics.WAITING.dec()
        else:
            await self._slots.acquire()
        metrics.RUNNING.inc()

    def _retry_s(self) -> int:
        return min(MAX_RETRY_S, math.ceil((self._waiting + 1) * self._usual_s / self.running))


async def _until_gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
