# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Saves the audio of alerts, from some seconds before to some seconds after each alert."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from ..clip_files import Part, file_name, write_part
from ..messages import RunError
from .alerts import Alert
from .outbox import GiveUpError, Outbox

CLIP_S = 5.0  # before and after an alert
MAX_CLIP_S = 120.0  # clips of longer alerts are cut off
MAX_WAITING = 20  # clips in the queue for writing


@dataclass
class _Clip:
    path: str
    start_s: float
    end_s: float  # known when the alert has ended


class ClipSaver:
    """
    Buffers the last seconds of a stream, and writes the audio of alerts as 16-bit WAV in a thread.

    Args:
        folder: Folder of the files.
        clip_before_s, clip_after_s: Seconds of audio before and after an alert.
        lag_s: Maximum delay from the onset of an alert to its detection, in seconds.
        report: Called with a line for each file that cannot be written.
    """

    def __init__(
        self,
        folder: str,
        *,
        lag_s: float,
        report: Callable[[str], object],
        clip_before_s: float = CLIP_S,
        clip_after_s: float = CLIP_S,
    ) -> None:
        self.folder, self.before_s, self.after_s = folder, clip_before_s, clip_after_s
        self._kept_s = clip_before_s + lag_s
        self._blocks: deque[tuple[float, np.ndarray]] = deque()  # start in seconds, and samples
        self._rate = 0
        self._open: dict[str, _Clip] = {}  # by id of the alert
        self._outbox = Outbox("clips", _write, report, retries=False, max_waiting=MAX_WAITING)

    def tap(self, blocks: Iterable[dict[str, Any]], position_s: float) -> Iterator[dict[str, Any]]:
        """Yields the blocks unchanged and buffers them. They start at `position_s` and have one sampling rate."""
        for block in blocks:
            samples, self._rate = block["array"], block["sampling_rate"]
            self._blocks.append((position_s, samples))
            position_s += len(samples) / self._rate
            yield block
            self._save_complete(position_s)
        self.finish()

    def add(self, alert: Alert) -> str:
        """Adds an alert that begins or ends. Returns the path of its clip, which is written later."""
        if alert.is_over:
            clip = self._open.get(alert.id)
            if clip is not None:
                clip.end_s = min(clip.end_s, (alert.offset_s or 0.0) + self.after_s)
            return str(alert.clip)
        moment = datetime.fromtimestamp(alert.began_at).strftime("%Y%m%dT%H%M%S")
        name = f"{moment}_{file_name(alert.label).replace(' ', '_')}_{alert.id.rpartition('-')[2]}.wav"
        start_s = alert.onset_s - self.before_s
        self._open[alert.id] = _Clip(os.path.join(self.folder, name), start_s, start_s + MAX_CLIP_S)
        return self._open[alert.id].path

    def finish(self) -> None:
        """Writes open clips up to here, where the audio ends or has a gap."""
        self._save_complete(np.inf)
        self._blocks.clear()

    def close(self) -> None:
        self.finish()
        self._outbox.close()

    def _save_complete(self, now_s: float) -> None:
        for number, clip in list(self._open.items()):
            if clip.end_s <= now_s:
                del self._open[number]
                self._outbox.add({"path": clip.path, "part": self._cut(clip)})
        oldest_s = min([now_s - self._kept_s, *(clip.start_s for clip in self._open.values())])
        while self._blocks and self._blocks[0][0] + len(self._blocks[0][1]) / self._rate < oldest_s:
            self._blocks.popleft()

    def _cut(self, clip: _Clip) -> Part:
        parts = [np.zeros(0, np.float32)]
        for start_s, samples in self._blocks:
            first, last = (round((bound - start_s) * self._rate) for bound in (clip.start_s, clip.end_s))
            parts.append(samples[max(0, first) : max(0, last)])
        return Part(np.concatenate(parts)[:, np.newaxis], self._rate or 1, "")


def _write(payload: dict[str, Any]) -> None:
    try:
        write_part(payload["part"], payload["path"], "wav")
    except (OSError, RunError) as error:
        raise GiveUpError(f"{payload['path']}: {getattr(error, 'strerror', None) or error}") from error
