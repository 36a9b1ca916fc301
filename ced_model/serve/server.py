# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the server: processes, connections that time out, and an orderly end."""

import asyncio
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process, resource_tracker
from typing import Any

import h11
import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.supervisors import Multiprocess

from ..tagger import AudioTagger
from . import metrics
from .api import create_app
from .settings import Settings

BACKLOG = 2048  # connections that the system keeps waiting
HEADERS_S = 10  # for the headers of a request to arrive, and for a refused body to stop
UNREAD_S = 60  # for a client to read a piece of an answer
FINISH_S = 60  # for requests that run when the server is to end
ALIVE_S = 60  # for a process to answer its parent, also while it imports: uvicorn's 5 s are too few on a busy machine
PING_S, PONG_S = 20.0, 60.0


class _WriteTimeout:
    """Ends connections whose client does not read."""

    _unread: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)  # type: ignore[attr-defined]

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        self._forget_unread()

    def connection_lost(self, error: Exception | None) -> None:
        self._forget_unread()
        super().connection_lost(error)  # type: ignore[misc]

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()


class SocketConnection(_WriteTimeout, WebSocketsSansIOProtocol):
    async def send(self, message: Any) -> None:
        await super().send(message)
        # uvicorn takes a handshake that was refused for one that was forgotten.
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True


class Connection(_WriteTimeout, H11Protocol):
    """
    A connection that is closed if a request does not begin in time.

    After a refusal the rest of its body is read and thrown away for a while: closed at once, the connection would be
    reset before the client has read the answer.
    """

    _headers: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        self._forget_headers()
        super().connection_lost(error)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._forget_headers()
        super().handle_websocket_upgrade(event)

    def _watch(self) -> None:
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy or self.transport.get_protocol() is not self:
            self._forget_headers()
        elif self._headers is None:
            self._headers = self.loop.call_later(HEADERS_S, self.transport.close)

    def _forget_headers(self) -> None:
        if self._headers is not None:
            self._headers.cancel()
            self._headers = None


class _Workers(Multiprocess):
    """Processes that only their parent ends: Ctrl-C would interrupt them while they import."""

    def init_processes(self) -> None:
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().init_processes()
        resource_tracker.ensure_running()  # which unblocks the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().init_processes()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class _Factory:
    """Makes the application in a process of its own."""

    models: Sequence[str]
    options: dict[str, Any]
    settings: Settings

    def __call__(self) -> Any:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        return create_app(load_taggers(self.models, self.options), self.settings)


def _end_with_parent() -> None:
    """A killed parent leaves processes that would keep its port."""
    if (parent := parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def load_taggers(models: Sequence[str], options: dict[str, Any]) -> list[AudioTagger]:
    """Models that are ready to compute."""
    taggers = [AudioTagger(model, **options) for model in models]
    warm_up(taggers)
    return taggers


def warm_up(taggers: Sequence[AudioTagger]) -> None:
    """Opens the engines, so that the first request does not wait for that."""
    for tagger in taggers:
        tagger([np.zeros(tagger.sampling_rate, np.float32)])


def open_port(host: str, port: int) -> socket.socket:
    """
    A socket that listens; connections wait in it until a process takes them.

    Raises:
        OSError: if the port is taken, or `host` is not an address of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # asyncio turns Nagle's algorithm off only where the protocol is named: with it, each answer takes 40 ms longer.
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.set_inheritable(True)
    return listening


def make_config(app: Any, **options: Any) -> uvicorn.Config:
    """How uvicorn runs an application."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws=SocketConnection,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PONG_S,
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=FINISH_S,
        timeout_worker_healthcheck=ALIVE_S,
        **options,
    )


def serve(
    listening: socket.socket,
    taggers: Sequence[AudioTagger] = (),
    settings: Settings | None = None,
    *,
    workers: int = 1,
    models: Sequence[str] = (),
    **options: Any,
) -> None:
    """
    Serves until SIGTERM or Ctrl-C; requests that run are finished, for up to 60 s, and no more are taken.

    Args:
        listening: As `open_port` returns it.
        taggers: Models, the first one as the default.
        settings: Limits and the key.
        workers: Processes. Several load `models` themselves.
        models, options: As for `AudioTagger`.
    """
    settings = settings or Settings()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if workers == 1:
            server = uvicorn.Server(make_config(create_app(taggers, settings)))
            for (
                number
            ) in before:  # also before uvicorn handles them, and after, when it raises those again that ended it
                signal.signal(number, server.handle_exit)
            server.run([listening])
            return
        config = make_config(_Factory(models, options, settings), workers=workers, factory=True)
        with tempfile.TemporaryDirectory(prefix="ced-metrics-") as folder:  # figures only
            os.environ[metrics.FOLDER] = folder
            _Workers(config, [listening]).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
