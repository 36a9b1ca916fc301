# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Tags, timeline and events of a recording."""

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
class Answer:
    """
    The results for a recording.

    Attributes:
        name: Name of the file.
        waveform: Mono float32 of shape `(samples,)`, at the sampling rate of the model.
        duration_s: Length in seconds.
        tags: Tags of the recording, sorted by score.
        timeline: Scores over time, for windows of `window_s` that overlap by half.
        events: Events of classes that reach the threshold, sorted by onset.
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
        """Whether the recording is longer than a window. Then a timeline is shown."""
        return self.duration_s > self.window_s


def listen(
    path: str | Path,
    tagger: AudioTagger,
    limits: Limits,
    window_s: float = TIMELINE_WINDOW_S,
    threshold: float = THRESHOLD,
    top_k: int = TOP_K,
    smooth_s: float = 0.0,
    labels: str = "",
) -> Answer:
    """
    Tags a recording and finds its events.

    Raises:
        DemoError: if it cannot be read or exceeds `limits`, or for invalid settings.
    """
    waveform = read_sound(path, tagger.sampling_rate, limits)
    name = printable(Path(path).name)
    try:
        choice = (labels or "").strip() or None
        (result,) = tagger.tag([waveform], top_k=top_k, labels=choice)
        if result.error is not None:
            raise result.error
        timeline = tagger.timeline(waveform, window_s=window_s)
        events = timeline.events(threshold, smooth_s=smooth_s, labels=choice)
        timeline = timeline.select(choice)
    except AudioError as error:
        reason = str(error).removeprefix(f"{describe(waveform)}: ")
        raise DemoError(f"{name} could not be tagged: {reason}. Please try another file.") from error
    except ValueError as error:
        raise DemoError(f"Invalid settings: {str(error).replace('`', '')}") from error
    return Answer(name, waveform, timeline.duration_s, result.tags, timeline, events, window_s)
