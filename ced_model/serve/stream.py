# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`/v1/audio/stream`: a WebSocket that receives live audio and sends tags and events."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..messages import one_line
from ..streaming import stream_events
from ..tagger import AudioTagger
from . import metrics
from .answers import DIGITS, Models, detections, rounded
from .parameters import Stream, parse
from .settings import ClientGone, Refusal, Settings
from .sound import PCM_TYPES

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**20
RETRY_S = 10
DONE, WRONG_DATA, TOO_LATE, TOO_LARGE, FAILED = 1000, 1007, 1008, 1009, 1011  # codes of RFC 6455


class Streams:
    """The live streams of one process, each in its own thread."""

    def __init__(self, models: Models, settings: Settings) -> None:
        self.models, self.settings = models, settings
        self.threads = ThreadPoolExecutor(settings.max_streams, "ced-stream")
        self._running = 0

    async def serve(self, socket: WebSocket, open_session: Callable[[], Any]) -> None:
        """
        Accepts a connection and runs a session. Errors are sent to the client before the connection is closed.

        Args:
            socket: The connection.
            open_session: Creates the session, which is then called with the accepted connection. A `Refusal` that it
                raises becomes an HTTP response.
        """
        try:
            session = open_session()
            if self._running >= self.settings.max_streams:
                raise Refusal(503, f"{self._running} streams are already running", RETRY_S)
        except (Refusal, ValueError) as error:
            refusal = error if isinstance(error, Refusal) else Refusal(422, str(error).replace("`", ""))
            await socket.send_denial_response(refusal.response())
            return
        self._running += 1
        metrics.STREAMS.inc()
        code, reason = DONE, ""
        try:
            await socket.accept("realtime" if "realtime" in socket.scope["subprotocols"] else None)
            await session(socket)
        except (ClientGone, WebSocketDisconnect):
            return
        except TimeoutError:
            code, reason = TOO_LATE, f"no message for {self.settings.stream_timeout_s:g} s"
        except (Refusal, ValueError) as error:
            is_large = isinstance(error, Refusal) and error.status == 413
            code, reason = TOO_LARGE if is_large else WRONG_DATA, one_line(error)
        except Exception:
            logger.exception("a stream failed")
            code, reason = FAILED, "internal error; see the log of the server"
        finally:
            self._running -= 1
            metrics.STREAMS.dec()
            if socket.application_state == WebSocketState.CONNECTED == socket.client_state:
                with suppress(WebSocketDisconnect, RuntimeError):
                    if reason:
                        await socket.send_text(json.dumps({"type": "error", "message": reason}))
                    await socket.close(code, reason.encode()[:120].decode(errors="ignore"))

    async def receive(self, socket: WebSocket) -> bytes | str:
        """
        The next message.

        Raises:
            ClientGone: if the connection is closed.
            TimeoutError: if none arrives in time.
        """
        async with asyncio.timeout(self.settings.stream_timeout_s):
            message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientGone
        data = message.get("bytes")
        return message["text"] if data is None else data


def add_stream(app: FastAPI, streams: Streams) -> None:
    @app.websocket("/v1/audio/stream")
    async def stream(socket: WebSocket) -> None:
        def open_session() -> Callable[[WebSocket], Awaitable[None]]:
            parameters = parse(Stream, dict(socket.query_params))
            _, tagger = streams.models.get(parameters.model)
            session = _Session(streams, tagger, parameters)
            session.run([], lambda _: None)  # fails for invalid parameters before the stream starts
            return session

        await streams.serve(socket, open_session)


class _Session:
    """
    One stream.

    Its thread receives a message only when it needs one, and waits until each response is sent. Clients that send too
    fast or do not read are slowed down, and no queue grows.
    """

    def __init__(self, streams: Streams, tagger: AudioTagger, parameters: Stream) -> None:
        self.streams, self.tagger, self.parameters = streams, tagger, parameters
        self.kind = PCM_TYPES[parameters.encoding]
        self.rate = parameters.sampling_rate or tagger.sampling_rate
        self.samples = 0

    async def __call__(self, socket: WebSocket) -> None:
        loop = asyncio.get_running_loop()

        def wait_for(step: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(step, loop).result()

        def send(message: dict[str, Any]) -> None:
            wait_for(socket.send_text(json.dumps(message)))

        def receive() -> bytes | str:
            return wait_for(self.streams.receive(socket))

        await loop.run_in_executor(self.streams.threads, lambda: self.run(self.chunks(receive), send))

    def chunks(self, receive: Callable[[], bytes | str]) -> Iterator[np.ndarray]:
        """Yields samples as they arrive. A message may end within a sample."""
        rest = b""
        while True:
            data = receive()
            if isinstance(data, str):
                _check_end(data)
                break
            if len(data) > MAX_MESSAGE_BYTES:
                raise Refusal(413, f"the message is too large: expected at most {MAX_MESSAGE_BYTES} bytes")
            data = rest + data
            whole = len(data) - len(data) % self.kind.itemsize
            rest = data[whole:]
            if whole:
                self.samples += whole // self.kind.itemsize
                metrics.AUDIO.inc(whole / self.kind.itemsize / self.rate)
                yield np.frombuffer(data[:whole], self.kind)
        if rest:
            raise Refusal(422, f"the stream ends within a sample of {self.parameters.encoding}")

    def run(self, chunks: Iterable[np.ndarray], send: Callable[[dict[str, Any]], object]) -> None:
        """Sends the tags of each window, events if requested, and the end."""
        asked, tagger = self.parameters, self.tagger
        tagging: dict[str, Any] = {"window_s": asked.window_s, "hop_s": asked.hop_s, "top_k": asked.top_k or None}
        tagging |= asked.choosing() | {"sampling_rate": self.rate}
        rules = asked.rules(tagger.labels, tagger.problem_type) if asked.events else []
        hop_s = asked.window_s / 2 if asked.hop_s is None else asked.hop_s

        def windows() -> Iterator[tuple[float, float, np.ndarray]]:
            for update in tagger.stream(chunks, **tagging):
                bounds = {"start_s": round(update.start_s, DIGITS), "end_s": round(update.end_s, DIGITS)}
                send({"type": "update"} | bounds | {"tags": detections(update.tags)})
                yield update.start_s, update.end_s, update.scores

        for event in stream_events(windows(), hop_s, rules):
            send({"type": "event"} | rounded(event))
        send({"type": "end", "duration_s": round(self.samples / self.rate, DIGITS)})


def _check_end(text: str) -> None:
    """Raises a [`Refusal`] for a text message other than `{"type": "end"}`."""
    try:
        is_end = json.loads(text).get("type") == "end"
    except (ValueError, AttributeError, RecursionError):
        is_end = False
    if not is_end:
        raise Refusal(422, 'expected samples in binary messages, or the text {"type": "end"}')
