# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""ASGI middleware that checks the API key and records metrics."""

import secrets
import time
from typing import Any

from . import metrics
from .settings import Refusal, Settings

OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")
SUBPROTOCOL = "openai-insecure-api-key."  # prefix of the key in OpenAI's browser clients


class Gate:
    """The middleware. Paths outside `known` share one label in the metrics."""

    def __init__(self, app: Any, settings: Settings, known: frozenset[str]) -> None:
        self.app, self.settings, self.known = app, settings, known

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        root, path = self.settings.root_path, scope["path"]
        path = path.removeprefix(root) if path.startswith(f"{root}/") else path  # proxies may remove it or not
        scope = scope | {"root_path": root, "path": root + path}
        status, began = 500, time.perf_counter()

        async def watch(message: Any) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            if self.settings.api_key is not None and path not in OPEN and not self._has_key(scope):
                refusal = Refusal(401, "missing or wrong API key: expected the header 'Authorization: Bearer KEY'")
                await refusal.response()(scope, receive, watch)
            else:
                await self.app(scope, receive, watch)
        finally:
            label = path if path in self.known else "other"
            metrics.REQUESTS.labels(label, status).inc()
            if status != 101:
                metrics.DURATION.labels(label).observe(time.perf_counter() - began)

    def _has_key(self, scope: Any) -> bool:
        headers = {name.lower(): value for name, value in scope["headers"]}
        kind, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        keys = [headers.get(b"x-api-key", b""), bearer.strip() if kind.lower() == b"bearer" else b""]
        for name in scope.get("subprotocols", ()):
            keys.append(name.removeprefix(SUBPROTOCOL).encode("latin-1", "replace") if SUBPROTOCOL in name else b"")
        assert self.settings.api_key is not None
        right = self.settings.api_key.encode()
        return any([secrets.compare_digest(key, right) for key in keys])  # a list, to compare all in constant time
