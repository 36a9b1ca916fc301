# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
`/v1/realtime`: the part of OpenAI's realtime protocol that LocalAI supports for sound classification.

A session is like one of LocalAI with only `sound_detection` in the pipeline. The client appends audio to a buffer, as
16-bit PCM in base64, and commits it. The committed audio is classified, and the tags are sent in a
`conversation.item.sound_detection` event. With the URL parameters `sound_detection_window_ms` and
`sound_detection_hop_ms`, which LocalAI has in its configuration, the last window is classified at each hop without
commits.
"""

import asyncio
import base64
import binascii
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import Field
from starlette.websockets import WebSocket

from . import metrics
from .answers import detections
from .parameters import Parameters, Score, parse
from .settings import Refusal
from .sound import pcm_samples
from .stream import Streams

DEFAULT_RATE = 24_000  # of LocalAI and OpenAI
RATES = (8_000, 96_000)
MAX_BUFFER_BYTES = 20_000_000
MAX_MESSAGE_BYTES = 16_000_000
TOP_K = 5  # of LocalAI
SAMPLE_BYTES = 2
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]


class Session(Parameters):
    top_k: Annotated[int, Field(ge=0)] = TOP_K
    threshold: Score = 0.0
    sound_detection_window_ms: Milliseconds = 0
    sound_detection_hop_ms: Milliseconds = 0


def add_realtime(app: FastAPI, streams: Streams) -> None:
    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        def open_session() -> Callable[[WebSocket], Awaitable[None]]:
            parameters = parse(Session, dict(socket.query_params))
            name, tagger = streams.models.get(parameters.model)
            return _Realtime(streams, name, tagger, parameters)

        await streams.serve(socket, open_session)


class _Problem(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Realtime:
    def __init__(self, streams: Streams, name: str, tagger: Any, parameters: Session) -> None:
        self.streams, self.name, self.tagger, self.parameters = streams, name, tagger, parameters
        self.id = _new_id("sess")
        self.rate = DEFAULT_RATE
        self.buffer = bytearray()
        self.since_hop = 0  # bytes

    async def __call__(self, socket: WebSocket) -> None:
        await self._send(socket, {"type": "session.created", "session": self._session()})
        while True:
            text = await self.streams.receive(socket)
            event_id = ""
            try:
                event = _parse(text)
                event_id = str(event.get("event_id") or "")
                async for answer in self._answers(event):
                    await self._send(socket, answer)
            except (_Problem, Refusal, ValueError) as error:
                code = error.code if isinstance(error, _Problem) else "invalid_audio_data"
                problem = {"type": "invalid_request_error", "code": code, "message": str(error), "event_id": event_id}
                await self._send(socket, {"type": "error", "error": problem})

    async def _send(self, socket: WebSocket, message: dict[str, Any]) -> None:
        await socket.send_text(json.dumps({"event_id": _new_id("event")} | message))

    def _session(self) -> dict[str, Any]:
        audio = {"input": {"format": {"type": "audio/pcm", "rate": self.rate}, "turn_detection": None}}
        return {"type": "realtime", "object": "realtime.session", "id": self.id, "model": self.name, "audio": audio}

    async def _answers(self, event: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        kind = event.get("type")
        if kind == "input_audio_buffer.append":
            async for answer in self._append(event.get("audio")):
                yield answer
        elif kind == "input_audio_buffer.commit":
            audio, item_id = bytes(self.buffer), _new_id("item")
            self.buffer.clear()
            yield {"type": "input_audio_buffer.committed", "item_id": item_id}
            yield await self._detect(audio, item_id)
        elif kind == "input_audio_buffer.clear":
            self.buffer.clear()
            self.since_hop = 0
            yield {"type": "input_audio_buffer.cleared"}
        elif kind == "session.update":
            self._update(event.get("session"))
            yield {"type": "session.updated", "session": self._session()}
        else:
            raise _Problem("not_implemented", f"{str(kind)[:60]}: this server only detects sounds")

    async def _append(self, audio: Any) -> AsyncIterator[dict[str, Any]]:
        if not audio:
            raise _Problem("missing_audio_data", "Audio data is missing")
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise _Problem("invalid_audio_data", "Failed to decode audio data") from None
        window, hop = (
            self._bytes(self.parameters.sound_detection_window_ms),
            self._bytes(self.parameters.sound_detection_hop_ms),
        )
        metrics.AUDIO.inc(len(data) / SAMPLE_BYTES / self.rate)
        while window and hop and self.since_hop + len(data) >= hop:
            taken = hop - self.since_hop
            self.buffer += data[:taken]
            data, self.since_hop = data[taken:], 0
            del self.buffer[:-window]
            yield await self._detect(bytes(self.buffer), _new_id("item"))
        if len(self.buffer) + len(data) > MAX_BUFFER_BYTES:
            raise _Problem("buffer_size_exceeded", f"Audio buffer size limit exceeded (max {MAX_BUFFER_BYTES} bytes)")
        self.buffer += data
        self.since_hop += len(data)

    def _bytes(self, milliseconds: int) -> int:
        return milliseconds * self.rate // 1000 * SAMPLE_BYTES

    async def _detect(self, audio: bytes, item_id: str) -> dict[str, Any]:
        if not audio:
            raise _Problem("input_audio_buffer_commit_empty", "the buffer has no audio")
        source = {"array": pcm_samples(audio, "pcm_s16le"), "sampling_rate": self.rate}
        tagging = {"top_k": self.parameters.top_k or None, "threshold": self.parameters.threshold or None}
        loop = asyncio.get_running_loop()
        (result,) = await loop.run_in_executor(self.streams.threads, lambda: list(self.tagger.tag([source], **tagging)))
        if result.error is not None:
            raise result.error
        found = {"item_id": item_id, "content_index": 0, "detections": detections(result.tags)}
        return {"type": "conversation.item.sound_detection"} | found

    def _update(self, session: Any) -> None:
        """Changes the sampling rate, the only setting of a session."""
        audio = _part(_part(session, "audio"), "input")
        if audio.get("turn_detection") or _part(session, "").get("turn_detection"):
            raise _Problem("not_implemented", "turn_detection: expected null")
        layout = _part(audio, "format")
        rate = layout.get("rate", self.rate)
        if layout.get("type", "audio/pcm") != "audio/pcm" or type(rate) is not int or not RATES[0] <= rate <= RATES[1]:
            wanted = f"audio/pcm with a rate from {RATES[0]} to {RATES[1]}"
            raise _Problem("session_update_error", f"audio.input.format: expected {wanted}")
        if rate != self.rate and self.buffer:
            raise _Problem("session_update_error", "the rate cannot change while the buffer has audio")
        self.rate = rate


def _part(value: Any, name: str) -> dict[str, Any]:
    """The dictionary `name` in a dictionary, or `value` itself for an empty name; empty if missing."""
    value = (value or {}).get(name) if name and isinstance(value, dict) else value
    return value if isinstance(value, dict) else {}


def _parse(text: bytes | str) -> dict[str, Any]:
    if len(text) > MAX_MESSAGE_BYTES:
        raise _Problem("message_too_large", f"expected at most {MAX_MESSAGE_BYTES} bytes per message")
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise _Problem("invalid_json", "Invalid JSON format")
    return event


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"
