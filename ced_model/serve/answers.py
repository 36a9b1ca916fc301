# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Computes the responses of the endpoints from waveforms."""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..classes import choose_classes
from ..events import Event
from ..results import Tag, Timeline
from ..tagger import AudioTagger
from . import parameters as kinds
from .settings import Refusal
from .sound import Budget

DIGITS = 6  # of scores and seconds in responses
MAX_WINDOWS = 20_000  # per recording
ROWS = 64  # rows of a timeline per piece of the response


class Models:
    """The models of a server by name. The first one is the default. The last part of a Hub id is also a name."""

    def __init__(self, taggers: Sequence[AudioTagger]) -> None:
        self.by_name = {public_name(tagger): tagger for tagger in taggers}
        self._aliases = {name.rpartition("/")[2]: name for name in reversed(self.by_name)}

    def get(self, name: str) -> tuple[str, AudioTagger]:
        """The name and tagger of a model. Raises a [`Refusal`] if the model is unknown."""
        name = name or next(iter(self.by_name))
        name = name if name in self.by_name else self._aliases.get(name, name)
        if name not in self.by_name:
            raise Refusal(404, f"unknown model {name[:100]!r}: expected {', '.join(self.by_name)}")
        return name, self.by_name[name]


def public_name(tagger: AudioTagger) -> str:
    """A Hub id, or the last part of a folder, which hides its path from clients."""
    return os.path.basename(os.path.normpath(tagger.name)) if os.path.isdir(tagger.name) else tagger.name


def detections(tags: Sequence[Tag]) -> list[dict[str, Any]]:
    return [{"index": tag.index, "label": tag.label, "score": round(tag.score, DIGITS)} for tag in tags]


def rounded(event: Event) -> dict[str, Any]:
    return {name: value if isinstance(value, str) else round(value, DIGITS) for name, value in event._asdict().items()}


def classify(
    name: str, tagger: AudioTagger, waveform: np.ndarray, parameters: kinds.Classification, budget: Budget
) -> Response:
    """Tags of a recording, sorted by score, in the format of LocalAI."""
    tagging = parameters.tagging()
    _check_windows(tagger, waveform, tagging["hop_s"] or tagging["window_s"])
    (result,) = tagger.tag([waveform], on_audio=budget.check, **tagging)
    if result.error is not None:
        raise result.error
    return JSONResponse({"model": name, "detections": detections(result.tags)})


def find_events(
    name: str, tagger: AudioTagger, waveform: np.ndarray, parameters: kinds.Events, budget: Budget
) -> Response:
    """Events of a recording: onset and offset in seconds, and the peak score."""
    parameters.rules(tagger.labels, tagger.problem_type)  # fails before the work
    timeline = _timeline(tagger, waveform, parameters, budget)
    found = [rounded(event) for event in timeline.events(**parameters.finding())]
    return JSONResponse({"model": name, "duration_s": round(timeline.duration_s, DIGITS), "events": found})


def score(name: str, tagger: AudioTagger, waveform: np.ndarray, parameters: kinds.Timeline, budget: Budget) -> Response:
    """Scores of each window of a recording, for all classes or those in `labels`."""
    choices = choose_classes(
        tagger.labels, parameters.labels or None, exclude=parameters.exclude or None
    )  # fails before the work
    timeline = _timeline(tagger, waveform, parameters, budget).take(choices)
    return StreamingResponse(_timeline_json(name, timeline), media_type="application/json")


def embed(
    name: str, tagger: AudioTagger, waveform: np.ndarray, parameters: kinds.Embedding, budget: Budget
) -> Response:
    """The pooled embedding of a recording, in the format of OpenAI's endpoint for text embeddings."""
    _check_windows(tagger, waveform, parameters.window_s)
    (result,) = tagger.embeddings([waveform], window_s=parameters.window_s, on_audio=budget.check)
    if result.error is not None:
        raise result.error
    entry = {"object": "embedding", "index": 0, "embedding": result.mean().tolist()}
    return JSONResponse({"object": "list", "model": name, "data": [entry]})


def _timeline(tagger: AudioTagger, waveform: np.ndarray, parameters: kinds.Windows, budget: Budget) -> Timeline:
    windows = {"window_s": parameters.window_s, "hop_s": parameters.hop_s}
    _check_windows(tagger, waveform, parameters.hop_s or parameters.window_s / 2)
    return tagger.timeline(waveform, on_audio=budget.check, **windows)


def _check_windows(tagger: AudioTagger, waveform: np.ndarray, hop_s: float | None) -> None:
    if hop_s and len(waveform) / tagger.sampling_rate > MAX_WINDOWS * hop_s:
        raise Refusal(413, f"more than {MAX_WINDOWS} windows: use a longer hop_s or a shorter recording")


def _timeline_json(name: str, timeline: Timeline) -> Iterator[str]:
    head = {"model": name, "duration_s": round(timeline.duration_s, DIGITS), "labels": list(timeline.labels)}
    yield json.dumps(head)[:-1] + ', "windows": ['
    for first in range(0, len(timeline.scores), ROWS):
        bounds = slice(first, first + ROWS)
        rows = zip(
            timeline.start_s[bounds].round(DIGITS).tolist(),
            timeline.end_s[bounds].round(DIGITS).tolist(),
            timeline.scores[bounds].astype(float).round(DIGITS).tolist(),
            strict=True,
        )
        text = json.dumps([{"start_s": start, "end_s": end, "scores": scores} for start, end, scores in rows])
        yield (", " if first else "") + text[1:-1]
    yield "]}"
