# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings of the server, and the exception for refused requests."""

import math
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from ..messages import OptionError, check_count, check_number, one_line

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Settings:
    """
    Limits and API key of the server.

    Attributes:
        max_megabytes: Largest body of a request, in millions of bytes.
        max_minutes: Longest recording.
        max_waiting: Maximum number of waiting requests. Further ones are refused.
        max_streams: Maximum number of live streams per process.
        body_timeout_s: Seconds without data after which an upload is refused. Longer uploads also need 10 kB/s on
            average.
        decode_timeout_s: Maximum time to decode a recording.
        timeout_s: Maximum time that a request may wait, and that its computation may take.
        stream_timeout_s: Seconds without a message after which a WebSocket is closed.
        api_key: Key required for requests, or None.
        root_path: Path under which a proxy publishes the server, such as `"/ced"`.

    Raises:
        OptionError: for invalid values.
    """

    max_megabytes: float = 100
    max_minutes: float = 30
    max_waiting: int = 64
    max_streams: int = 16
    body_timeout_s: float = 30
    decode_timeout_s: float = 30
    timeout_s: float = 300
    stream_timeout_s: float = 60
    api_key: str | None = field(default=None, repr=False)
    root_path: str = ""

    def __post_init__(self) -> None:
        for name, kind in self.__annotations__.items():
            value = getattr(self, name)
            if kind is int:
                check_count(name, value)
            elif kind is float:
                check_number(name, value)
                if not 0 < value < math.inf:
                    raise OptionError(name, value, "a number above 0")
        key = self.api_key
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise OptionError("api_key", "…", "printable ASCII characters without spaces")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise OptionError("root_path", self.root_path, "a path such as /ced")

    @property
    def max_bytes(self) -> int:
        return round(self.max_megabytes * MEGABYTE)


class Refusal(Exception):
    """A refused request: an HTTP status and a one-line message for the client."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(one_line(message))
        self.status, self.retry_after_s = status, retry_after_s

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.content(), self.status, headers)

    def content(self) -> dict[str, Any]:
        """The error in the format of LocalAI and OpenAI."""
        kind = "authentication_error" if self.status == 401 else "invalid_request_error"
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"code": self.status, "message": str(self), "type": kind}}


class ClientGone(Exception):
    """The client has closed its connection."""
