# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""One request: a recording → its tags, timeline and events."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..audio import AudioError, describe
from ..events import Event
from ..messages import printable
from ..results import Tag, Timeline
from ..tagger import TIMELINE_WINDOW_S, AudioTagger
from .limits import DemoError, Limits, read_sound

TOP_K = 8
THRESHOLD = 0.5


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        model: name of one of the models that are offered.
        window_s: length of the windows of the timeline in seconds; they overlap by half.
        threshold: score from which a class counts as present.
        smooth_s: length in seconds over which scores are smoothed for events.
        labels: classes and groups that are looked for, with commas between them; empty for all.
    """

    model: str
    window_s: float = TIMELINE_WINDOW_S
    threshold: float = THRESHOLD
    smooth_s: float = 0.0
    labels: str = ""


@dataclass(frozen=True)
class Answer:
    """
    What is in a recording, and when.

    Attributes:
        name: of its file.
        waveform: mono float32 of shape `(samples,)`, at the sampling rate of the model.
        duration_s: its length in seconds.
        tags: of the whole, the highest score first.
        timeline: scores over time.
        events: when each class reaches the threshold, ordered by onset.
    """

    name: str
    waveform: np.ndarray = field(repr=False)
    duration_s: float
    tags: list[Tag]
    timeline: Timeline
    events: list[Event]
    window_s: float

    @property
    def is_long(self) -> bool:
        """Whether it is longer than a window, so that it matters when something sounds."""
        return self.duration_s > self.window_s


def listen(path: str | Path, tagger: AudioTagger, settings: Settings, limits: Limits, top_k: int = TOP_K) -> Answer:
    """
    Tags a recording and finds its events.

    Raises:
        DemoError: if it cannot be read or is more than `limits` allow, or for settings that the model cannot use.
    """
    waveform = read_sound(path, tagger.sampling_rate, limits)
    name = printable(Path(path).name)
    try:
        labels = (settings.labels or "").strip() or None
        (result,) = tagger.tag([waveform], top_k=top_k, labels=labels)
        if result.error is not None:
            raise result.error
        timeline = tagger.timeline(waveform, window_s=settings.window_s)
        events = timeline.events(settings.threshold, smooth_s=settings.smooth_s, labels=labels)
        timeline = timeline.select(labels)
    except AudioError as error:
        reason = str(error).removeprefix(f"{describe(waveform)}: ")
        raise DemoError(f"{name} could not be tagged: {reason}. Please try another file.") from error
    except ValueError as error:
        raise DemoError(f"These settings do not work: {str(error).replace('`', '')}") from error
    return Answer(name, waveform, timeline.duration_s, result.tags, timeline, events, settings.window_s)
