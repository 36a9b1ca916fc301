# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Live audio: converts chunks to blocks at the model's sampling rate, and scores of windows to events."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np
import soxr

from .audio import AudioError, check_rate, read_blocks
from .audio_inputs import array_of
from .classes import choice_scores
from .events import ROUNDING_S, Event, Rule, events_within, smoothed, smoothing_windows

Scored = tuple[float, float, np.ndarray]  # bounds of a window in seconds, and scores of shape (classes,)
Segment = tuple[float, float]  # the part of the stream that a window represents, in seconds


def stream_blocks(chunks: Iterable[Any], rate: int | None, model_rate: int) -> Iterator[np.ndarray]:
    """Converts the chunks of a stream to mono float32 blocks at the model's rate."""
    chunks = iter(chunks)
    head = list(islice(chunks, 1))
    if not head:
        return
    if rate is None:
        rate = head[0].get("sampling_rate", model_rate) if isinstance(head[0], dict) else model_rate
    check_rate("sampling_rate", rate)
    resampler = None
    position = 0
    for chunk in chain(head, chunks):
        samples = _mono_chunk(chunk, rate, position)
        position += len(samples)
        if rate != model_rate:
            resampler = resampler or soxr.ResampleStream(rate, model_rate, 1, dtype="float32")
            samples = resampler.resample_chunk(samples)
        if len(samples):
            yield samples
    if resampler is not None and len(block := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
        yield block


def _mono_chunk(chunk: Any, rate: int, position: int) -> np.ndarray:
    """One chunk as mono float32; raises a ValueError if it does not continue the stream."""
    if isinstance(chunk, dict):
        if chunk.get("sampling_rate", rate) != rate:
            raise ValueError(
                f"The stream changed its sampling rate from {rate} to {chunk['sampling_rate']} Hz; start a new stream."
            )
        if chunk.get("start", position) != position:
            raise ValueError(
                f"The stream has a gap: the next sample is {position}, but the chunk starts at {chunk['start']};"
                " start a new stream."
            )
        chunk = array_of(chunk)
    if not hasattr(chunk, "shape"):
        raise AudioError(
            f"The stream has a chunk of type {type(chunk).__name__}: expected a waveform (an array or a tensor of shape"
            ' `(samples,)`), or {"array": waveform}.'
        )
    if len(chunk.shape) == 2 and chunk.shape[1] == 1:  # one channel of a sound card
        chunk = chunk[:, 0]
    if len(chunk.shape) != 1 and tuple(chunk.shape[:-1]) != (1,):
        raise AudioError(
            f"The stream has a chunk of shape {tuple(chunk.shape)}: expected mono, (samples,). Average the channels,"
            " for example with `chunk.mean(axis=1)`, and give a list of chunks rather than one array."
        )
    if 0 in chunk.shape:
        return np.zeros(0, np.float32)
    # Not resampled here, since the resampler must run over all chunks.
    return np.concatenate(list(read_blocks(chunk, sampling_rate=rate, array_sampling_rate=rate)))


class StreamSmoother:
    """Smooths scores as [`smoothed`] does, with a delay of `windows // 2` windows."""

    def __init__(self, windows: int, how: str) -> None:
        self.windows, self.how = windows, how
        self._around: deque[Scored] = deque(maxlen=windows)
        self._waiting: deque[Scored] = deque()  # windows that are not ready

    def add(self, window: Scored) -> Iterator[Scored]:
        """Adds a window, and yields those that are ready."""
        self._around.extend([window] * (1 if self._around else self.windows // 2 + 1))
        self._waiting.append(window)
        yield from self._ready()

    def finish(self) -> Iterator[Scored]:
        """Yields the remaining windows at the end of the stream."""
        while self._waiting:
            self._around.append(self._around[-1])
            yield from self._ready()

    def _ready(self) -> Iterator[Scored]:
        if len(self._around) == self.windows:
            start_s, end_s, _ = self._waiting.popleft()
            scores = smoothed(np.stack([scores for _, _, scores in self._around]), self.windows, self.how)
            yield start_s, end_s, scores[self.windows // 2]


def smooth_stream(updates: Iterable[Scored], windows: int, how: str) -> Iterator[Scored]:
    """The windows of a stream with smoothed scores."""
    smoother = StreamSmoother(windows, how)
    for update in updates:
        yield from smoother.add(update)
    yield from smoother.finish()


class _OpenEvent:
    """The current event of one class or group, and its windows."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.offset_s = 0.0
        self.is_active = self.is_cut = False
        self.scores: list[float] = []
        self.segments: list[Segment] = []

    def add(self, score: float, segment: Segment) -> list[Event]:
        """Adds a window, and returns events that have ended, and pieces of `max_duration_s` that are complete."""
        off = self.rule.threshold if self.rule.off_threshold is None else self.rule.off_threshold
        self.is_active = score >= (off if self.is_active else self.rule.threshold)
        if self.is_active:
            self.offset_s = segment[1]
        elif not self.scores:
            return []
        self.scores.append(score)
        self.segments.append(segment)
        # The next window could still be active, and begin where this one ends.
        if self.is_active or segment[1] - self.offset_s <= self.rule.merge_gap_s + ROUNDING_S:
            return self._cut()
        return self.finish()

    def _cut(self) -> list[Event]:
        """The pieces of `max_duration_s` that are complete."""
        max_duration_s, found = self.rule.max_duration_s, []
        while max_duration_s is not None and self.offset_s - self.segments[0][0] > max_duration_s + ROUNDING_S:
            border_s = self.segments[0][0] + max_duration_s
            found += self._events(border_s)
            kept = [place for place, (_, end_s) in enumerate(self.segments) if end_s > border_s]
            self.scores, self.segments = self.scores[kept[0] :], self.segments[kept[0] :]
            self.segments[0] = border_s, self.segments[0][1]
            self.is_cut = True
        return found

    def finish(self) -> list[Event]:
        """The event, if there is one, up to the end of its last active window."""
        if not self.scores:
            return []
        found = self._events(self.offset_s)
        self.scores, self.segments, self.is_active, self.is_cut = [], [], False, False
        return found

    def _events(self, offset_s: float) -> list[Event]:
        rule = replace(self.rule, min_duration_s=0.0) if self.is_cut else self.rule
        segments = np.array(self.segments)
        return events_within(segments[0, 0], offset_s, np.array(self.scores), segments, rule)


class _EventFinder:
    """Finds the events of rules with the same smoothing."""

    def __init__(self, rules: Sequence[Rule], hop_s: float) -> None:
        self.choices = [rule.choice for rule in rules]
        self.open = [_OpenEvent(rule) for rule in rules]
        self.smoother = StreamSmoother(smoothing_windows(rules[0].smooth_s, hop_s), rules[0].smoothing)
        self._last: Scored | None = None  # the end of its segment depends on the next window
        self._border_s = 0.0

    def add(self, update: Scored) -> Iterator[Event]:
        for window in self.smoother.add(update):
            yield from self._take(window)

    def finish(self) -> Iterator[Event]:
        for window in self.smoother.finish():
            yield from self._take(window)
        if self._last is not None:
            yield from self._feed(self._last[1])
        for each in self.open:
            yield from each.finish()

    def _take(self, window: Scored) -> Iterator[Event]:
        if self._last is not None:
            yield from self._feed((window[0] + self._last[1]) / 2)
        self._last = window

    def _feed(self, border_s: float) -> Iterator[Event]:
        assert self._last is not None
        scores = choice_scores(self._last[2], self.choices)
        for score, each in zip(scores.tolist(), self.open, strict=True):
            yield from each.add(score, (self._border_s, border_s))
        self._border_s = border_s


def stream_events(updates: Iterable[Scored], hop_s: float, rules: Sequence[Rule]) -> Iterator[Event]:
    """Yields events as soon as they have ended."""
    groups: dict[tuple[int, str], list[Rule]] = {}
    for rule in rules:
        groups.setdefault((smoothing_windows(rule.smooth_s, hop_s), rule.smoothing), []).append(rule)
    finders = [_EventFinder(group, hop_s) for group in groups.values()]
    for update in updates:
        for finder in finders:
            yield from finder.add(update)
    for finder in finders:
        yield from finder.finish()
