# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the server: processes, timeouts of connections, and shutdown."""

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

BACKLOG = 2048  # connections in the queue of the system
HEADERS_S = 10  # time limit for the headers of a request, and for the rest of a refused body
UNREAD_S = 60  # time limit for a client to read a piece of a response
FINISH_S = 60  # time limit for running requests at shutdown
ALIVE_S = 60  # time limit for a process to answer its parent, also during its imports; uvicorn's 5 s are too few
PING_S, PONG_S = 20.0, 60.0


class _WriteTimeout:
    """Closes connections whose client does not read."""

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
        # Otherwise uvicorn would treat a refused handshake as unfinished.
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True


class Connection(_WriteTimeout, H11Protocol):
    """
    A connection that is closed if the headers of a request do not arrive in time.

    After a refusal, the rest of the body is read and discarded for a while. Otherwise the connection would be reset
    before the client has read the response.
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
    """Creates the application in a worker process."""

    models: Sequence[str]
    options: dict[str, Any]
    settings: Settings

    def __call__(self) -> Any:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        return create_app(load_taggers(self.models, self.options), self.settings)


def _end_with_parent() -> None:
    """Ends this process with its parent. Otherwise it would keep the port if the parent is killed."""
    if (parent := parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def load_taggers(models: Sequence[str], options: dict[str, Any]) -> list[AudioTagger]:
    """Loads models and opens their engines."""
    taggers = [AudioTagger(model, **options) for model in models]
    warm_up(taggers)
    return taggers


def warm_up(taggers: Sequence[AudioTagger]) -> None:
    """Opens the engines before the first request."""
    for tagger in taggers:
        tagger([np.zeros(tagger.sampling_rate, np.float32)])


def open_port(host: str, port: int) -> socket.socket:
    """
    A listening socket. Connections wait in its queue until the server accepts them.

    Raises:
        OSError: if the port is in use, or `host` is not an address of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # With the protocol given, asyncio disables Nagle's algorithm, which delays each response by 40 ms.
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows, it would allow to bind a port that is in use
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.set_inheritable(True)
    return listening


def make_config(app: Any, **options: Any) -> uvicorn.Config:
    """The configuration of uvicorn."""
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
    Serves until SIGTERM or Ctrl-C. Running requests are then finished, for up to 60 s.

    Args:
        listening: The socket from `open_port`.
        taggers: The models. The first one is the default.
        settings: Limits and API key.
        workers: Number of processes. With several, each loads `models` itself.
        models, options: Model names and options for `AudioTagger`.
    """
    settings = settings or Settings()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if workers == 1:
            server = uvicorn.Server(make_config(create_app(taggers, settings)))
            for number in before:  # before uvicorn handles them, and after it, when it raises them once more
                signal.signal(number, server.handle_exit)
            server.run([listening])
            return
        config = make_config(_Factory(models, options, settings), workers=workers, factory=True)
        with tempfile.TemporaryDirectory(prefix="ced-metrics-") as folder:  # for metrics
            os.environ[metrics.FOLDER] = folder
            _Workers(config, [listening]).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
