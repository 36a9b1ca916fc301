# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds alerts in a live stream, and sends them to targets."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..results import StreamUpdate
from .alerts import Alert, AlertFinder
from .clips import ClipSaver
from .mqtt import MqttAlerts
from .outbox import Outbox
from .sources import LiveSource


class Alerting:
    """
    Sends the alerts of a source to targets.

    Args:
        source: The live source.
        name: Name of the source in alerts.
        finder: Finds the alerts.
        hop_s: Seconds between windows. A window represents this much audio around its centre.
        outboxes, mqtt, clips: The targets.
    """

    def __init__(
        self,
        source: LiveSource,
        name: str,
        finder: AlertFinder,
        hop_s: float,
        outboxes: Iterable[Outbox] = (),
        mqtt: MqttAlerts | None = None,
        clips: ClipSaver | None = None,
    ) -> None:
        self.source, self.name, self.finder, self.hop_s = source, name, finder, hop_s
        self.outboxes, self.mqtt, self.clips = list(outboxes), mqtt, clips

    def blocks(self) -> Iterator[dict[str, Any]]:
        """Yields the blocks of the source until a gap."""
        blocks = self.source.blocks_until_gap()
        for block in self._kept(blocks):
            if self.mqtt is not None:
                self.mqtt.set_available(True)
            yield block

    def _kept(self, blocks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if self.clips is None:
            return blocks
        return self.clips.tap(blocks, self.source.position_s + self.source.taken_s)

    def update(self, update: StreamUpdate) -> list[Alert]:
        """Returns alerts that begin or end with a window, after queueing them for the targets."""
        start_s = self.source.position_s + (update.start_s + update.end_s - self.hop_s) / 2
        found = self.finder.update(start_s, start_s + self.hop_s, update.scores, self._time_of)
        return self._sent(found)

    def end(self) -> list[Alert]:
        """Ends all alerts, because audio is interrupted."""
        found = self._sent(self.finder.finish())
        if self.mqtt is not None and self.source.is_lost:
            self.mqtt.set_available(False)
        return found

    def close(self) -> None:
        """Delivers waiting alerts, for a few seconds."""
        closings: list[Callable[[], None]] = [each.close for each in (self.clips, self.mqtt, *self.outboxes) if each]
        for close in closings:
            close()

    def _time_of(self, place_s: float) -> float:
        return self.source.time_of(place_s - self.source.position_s)

    def _sent(self, found: list[Alert]) -> list[Alert]:
        for alert in found:
            if self.clips is not None:
                alert.clip = self.clips.add(alert)
            payload = alert.payload(self.name)
            for outbox in self.outboxes:
                outbox.add(payload)
            if self.mqtt is not None:
                self.mqtt.add(alert, payload)
        return found
