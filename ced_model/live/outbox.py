# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A bounded queue of events, delivered by a thread, so that a failing target does not delay listening."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

MAX_WAITING = 1000  # events; beyond that the oldest is discarded
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 60.0  # between attempts
FLUSH_S = 5.0  # time limit for waiting events when listening ends

Payload = dict[str, Any]


class TryAgainError(Exception):
    """A delivery failed and can be tried again. The message is one line without credentials."""


class GiveUpError(Exception):
    """A delivery failed permanently. The message is one line without credentials."""


class Outbox:
    """
    Delivers events in order. Each is repeated until it succeeds or fails permanently.

    Args:
        name: Name of the target in messages.
        deliver: Delivers one event, or raises one of the errors above.
        report: Called with a line for the first of several failures, and when they end.
        retries: Whether failed deliveries are repeated.
        max_waiting: Maximum number of waiting events. Beyond that the oldest is discarded.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Payload], object],
        report: Callable[[str], object],
        *,
        retries: bool = True,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.name, self._deliver, self._report, self._retries = name, deliver, report, retries
        self._max_waiting = max_waiting
        self.given_up = 0
        self._waiting: deque[Payload] = deque()
        self._changed = threading.Condition()
        self._is_closing = self._is_failing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, payload: Payload) -> None:
        """Queues an event. Does not block."""
        with self._changed:
            if len(self._waiting) >= self._max_waiting:
                del self._waiting[1 if len(self._waiting) > 1 else 0]  # the first one may be in delivery
                self.given_up += 1
            self._waiting.append(payload)
            self._changed.notify_all()

    def close(self) -> None:
        """Delivers waiting events, for at most `FLUSH_S`, and reports how many could not be delivered."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting, FLUSH_S)
            left = len(self._waiting) + self.given_up
        if left:
            self._report(f"{self.name}: {left} event{'s' * (left != 1)} could not be delivered")
        self._report = lambda line: None  # ignore reports of a request that still hangs

    def _run(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                if not self._waiting:
                    return
                payload = self._waiting[0]
            reason, is_final = "", not self._retries
            try:
                self._deliver(payload)
            except TryAgainError as error:
                reason = str(error)
            except GiveUpError as error:
                reason, is_final = str(error), True
            self._note(reason, is_final)
            with self._changed:
                if not reason or is_final:
                    self.given_up += bool(reason)
                    self._waiting.popleft()
                    self._changed.notify_all()
                    delay_s = FIRST_DELAY_S
                    continue
                until = time.monotonic() + delay_s
                while not self._is_closing and time.monotonic() < until:
                    self._changed.wait(until - time.monotonic())
                if self._is_closing:  # the last attempts have short delays
                    self._changed.wait(min(delay_s, 0.5))
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    def _note(self, reason: str, is_final: bool) -> None:
        if reason and not self._is_failing:
            self._report(f"{self.name}: {reason}{'' if is_final else '; trying again'}")
        elif not reason and self._is_failing:
            self._report(f"{self.name}: events are delivered again")
        self._is_failing = bool(reason)
