# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Requests that take their turn: a few are computed at a time, some wait, and further ones are refused."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np

from ..engines import Engine, Outputs
from ..tagger import AudioTagger
from . import metrics
from .settings import ClientGone, Refusal, Settings
from .sound import Budget

MAX_RETRY_S = 60
T = TypeVar("T")


class SharedEngine:
    """An engine on the CPU for several requests: a single call has all threads, several at a time have one each."""

    def __init__(self, engine: Engine, num_threads: int) -> None:
        self.name, self.compute_type, self.device = engine.name, engine.compute_type, engine.device
        self._engine = engine
        self._turns = threading.Semaphore(num_threads)
        self._lock = threading.Lock()
        self._calls = 0

    def run(self, log_mels: np.ndarray, is_alone: bool) -> Outputs:
        with self._lock:
            self._calls += 1
            is_alone = is_alone and self._calls == 1
        try:
            with nullcontext() if is_alone else self._turns:
                return self._engine.run(log_mels, is_alone)
        finally:
            with self._lock:
                self._calls -= 1


def share_engine(tagger: AudioTagger) -> None:
    """Makes a tagger fit for requests from several threads; it computes the same."""
    if tagger.device == "cpu" and tagger.num_threads > 1 and not isinstance(tagger._engine, SharedEngine):
        tagger._engine = SharedEngine(tagger._engine, tagger.num_threads)


class Work:
    """
    The turns of one process.

    Args:
        settings: Limits.
        running: Requests that are decoded and computed at a time.
    """

    def __init__(self, settings: Settings, running: int) -> None:
        self.settings, self.running = settings, running
        self.threads = ThreadPoolExecutor(running, "ced-request")
        self._slots = asyncio.Semaphore(running)
        self._waiting = 0
        self._usual_s = 0.1  # of a request, lately

    async def run(self, receive: Callable[[], Awaitable[Any]], function: Callable[[Budget], T]) -> T:
        """
        Calls a function in another thread when it is its turn.

        Args:
            receive: Of the request, whose body has been read: a client that goes away ends its work.
            function: Its argument is to be checked now and then.

        Raises:
            Refusal: if there is no place, or no turn in time.
            ClientGone: if the client closes its connection.
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
                if not future.done():  # the turn ends when the thread has
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
                raise Refusal(503, f"{self._waiting} requests are waiting already", self._retry_s())
            self._waiting += 1
            metrics.WAITING.inc()
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    await self._slots.acquire()
            except TimeoutError:
                raise Refusal(503, f"no turn within {self.settings.timeout_s:g} s", self._retry_s()) from None
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
