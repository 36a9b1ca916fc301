# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Computes the responses for the page and the API."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from typing import Any, NamedTuple

import anyio
import gradio
import numpy as np

from .answer import THRESHOLD, TOP_K, Answer, listen
from .event_table import draw_events
from .limits import DemoError, Limits
from .models import Models
from .pictures import draw_timeline

logger = logging.getLogger(__name__)

UNEXPECTED = "Unexpected error; see the log of the server. Other recordings and models still work."


class PageParts(NamedTuple):
    """The outputs of the page, in order."""

    status: str
    has_answer: Any  # a Gradio update of the visibility
    tags: dict[str, float] | None
    recording: tuple[int, np.ndarray] | None
    timeline: str
    events: str


class Service:
    """
    Tags recordings with the models of the demo.

    Args:
        models: The models to choose from.
        limits: Limits on size and duration.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self._turn = asyncio.Lock()

    async def fetch(self, model: str) -> None:
        """Waits outside the queue until a model is loaded. Failures are reported by the next step."""
        with suppress(DemoError):
            await asyncio.wrap_future(self.models.begin(model))

    async def take_turn(self, function: Callable[..., Any], sound: str | None, model: str, *settings: Any) -> Any:
        """Waits until the model is loaded, and calls `function`. One request is computed at a time."""
        await self.fetch(model)
        async with self._turn:
            return await anyio.to_thread.run_sync(function, sound, model, *settings)

    async def tags(self, sound: str, model: str, top_k: int = TOP_K) -> dict[str, Any]:
        """The tags of a recording, sorted by score."""
        return await self.take_turn(self.find_tags, sound, model, top_k)

    async def events(
        self,
        sound: str,
        model: str,
        window_s: float = 2.0,
        threshold: float = THRESHOLD,
        smooth_s: float = 0.0,
        labels: str = "",
    ) -> dict[str, Any]:
        """The events of a recording, sorted by onset."""
        return await self.take_turn(self.find_events, sound, model, window_s, threshold, smooth_s, labels)

    def find_tags(self, sound: str, model: str, top_k: int = TOP_K) -> dict[str, Any]:
        with _errors_for_programs():
            answer = self._listen(sound, model, top_k=top_k)
        tags = [{"label": tag.label, "score": round(tag.score, 6)} for tag in answer.tags]
        return {"file": answer.name, "model": model, "duration_s": answer.duration_s, "tags": tags}

    def find_events(
        self, sound: str, model: str, window_s: float, threshold: float, smooth_s: float, labels: str
    ) -> dict[str, Any]:
        settings: dict[str, Any] = {"window_s": window_s, "smooth_s": smooth_s, "labels": labels}
        with _errors_for_programs():
            answer = self._listen(sound, model, threshold=threshold, **settings)
        events = [event._asdict() for event in answer.events]
        return {"file": answer.name, "model": model, "duration_s": answer.duration_s, "events": events}

    def list_models(self) -> list[dict[str, str]]:
        """The models to choose from, with descriptions. The first one is the default."""
        return [{"model": name, "good_for": self.describe(name)} for name in self.models.names]

    def describe(self, model: str) -> str:
        """A description of a model, for the page."""
        try:
            return self.models.describe(model)
        except DemoError as error:
            return str(error)

    def show(
        self, sound: str | None, model: str, window_s: float, threshold: float, smooth_s: float = 0.0, labels: str = ""
    ) -> PageParts:
        """The parts of the page for a recording, or an error message."""
        settings: dict[str, Any] = {"window_s": window_s, "smooth_s": smooth_s, "labels": labels}
        try:
            with _logged():
                return self._parts(self._listen(sound, model, threshold=threshold, **settings), model, threshold)
        except DemoError as error:
            status = f'<p class="ced-error" role="alert">{escape(str(error))}</p>'
            return PageParts(status, gradio.update(visible=False), None, None, "", "")

    def show_again(self, sound: str | None, *settings: Any) -> Any:
        """Updates the page after a setting changed; without a recording nothing changes."""
        return gradio.skip() if sound is None else self.show(sound, *settings)

    def _listen(self, sound: str | None, model: str, **settings: Any) -> Answer:
        if sound is None:
            raise DemoError("Please choose a file, record something, or click one of the examples first.")
        return listen(sound, self.models.load(model), self.limits, **settings)

    def _parts(self, answer: Answer, model: str, threshold: float) -> PageParts:
        tagger = self.models.load(model)
        timeline = events = ""
        if answer.is_long:
            timeline = draw_timeline(answer, tagger.front_end, threshold)
            events = draw_events(answer, threshold)
        samples = (np.clip(answer.waveform, -1, 1) * np.iinfo(np.int16).max).astype(np.int16)
        return PageParts(
            status=f"<p>{escape(answer.name)}, {answer.duration_s:.1f} s. Model: <b>{escape(model)}</b></p>",
            has_answer=gradio.update(visible=True),
            tags={tag.label: min(max(tag.score, 0.0), 1.0) for tag in answer.tags},
            recording=(tagger.sampling_rate, samples),
            timeline=timeline,
            events=events,
        )


@contextmanager
def _logged() -> Iterator[None]:
    """Logs unexpected errors and converts them to a `DemoError`."""
    try:
        yield
    except DemoError:
        raise
    except Exception as error:
        logger.exception("unexpected error")
        raise DemoError(UNEXPECTED) from error


@contextmanager
def _errors_for_programs() -> Iterator[None]:
    try:
        with _logged():
            yield
    except DemoError as error:
        raise gradio.Error(str(error), print_exception=False) from error
