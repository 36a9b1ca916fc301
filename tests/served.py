# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""A server on a real socket, in a thread of the test process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from ced_model import AudioTagger
from ced_model.serve.api import create_app
from ced_model.serve.server import make_config, open_port
from ced_model.serve.settings import Settings


class Served:
    """
    Attributes:
        port: Its port.
        running: Requests that are being answered.
        client: An HTTP client of it.
    """

    def __init__(self, port: int, running: set[Any]) -> None:
        self.port, self.running = port, running
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False, verify=False)
        self.post, self.get = self.client.post, self.client.get

    def websocket(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"


@contextmanager
def serving(taggers: list[AudioTagger], settings: Settings) -> Iterator[Served]:
    listening = open_port("127.0.0.1", 0)
    server = uvicorn.Server(make_config(create_app(taggers, settings)))
    served = Served(listening.getsockname()[1], server.server_state.tasks)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield served
    finally:
        served.client.close()
        server.should_exit = True
        thread.join()
