# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Middleware: refuses malformed requests with 4xx instead of a traceback, and hides folders of the server."""

import json
import logging
import re
from pathlib import Path
from typing import Any, TypeVar

import gradio
from gradio.exceptions import InvalidPathError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..messages import one_line
from .service import UNEXPECTED

logger = logging.getLogger(__name__)

API = "/gradio_api/"
UPLOADS = "/uploads"  # replaces the folder of uploads in responses
# Endpoints of Gradio that the demo does not need: code editor, statistics, logins, proxies for other servers.
CLOSED = re.compile(
    r"/(monitoring|login|logout)\b|/gradio_api/(dev|vibe-|undo-vibe-|process_recording|component_server|deep_link|stream"
    r"|proxy=|runs?-|runs\b|profiling|custom_component)"
)
JSON_REQUESTS = re.compile(r"/gradio_api/(call|run|api|queue|cancel|reset)\b")
MAX_JSON_BYTES = 1_000_000
MALFORMED = "Invalid arguments for this endpoint; see /?view=api."
NO_URLS = "URLs are not supported: please download the file and choose it here."
NOT_UPLOADED = "This file was not uploaded: please upload it first."

Input = TypeVar("Input", gradio.File, gradio.Audio)


class Refusal(Exception):
    """A refused request: status and detail of the response."""


class Guard:
    """Middleware around Gradio's server."""

    def __init__(self, app: ASGIApp, folder: str) -> None:
        self.app = app
        self.folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        answer = _Answer(send, self.folder, scope["path"])
        try:
            if CLOSED.match(scope["path"]):
                raise Refusal(404, "Not Found")
            if scope["path"].startswith((f"{API}file=", f"{API}file/")):
                scope = {**scope, "path": self._file_path(scope["path"])}
            if scope["method"] == "POST" and JSON_REQUESTS.match(scope["path"]):
                receive = await self._checked_body(receive)
            await self.app(scope, receive, answer.send)
            await answer.finish()
        except Refusal as refusal:
            await answer.refuse(*refusal.args)
        except Exception as error:
            # If the response has already started, starlette raises another error from this one.
            known = error if isinstance(error, HTTPException) else error.__cause__
            if isinstance(known, HTTPException):
                return await answer.refuse(known.status_code, known.detail)
            logger.info("%s %s: %s", scope["method"], one_line(scope["path"])[:200], one_line(repr(error))[:300])
            if isinstance(error, OSError):  # a full disk
                await answer.refuse(500, UNEXPECTED)
            else:
                await answer.refuse(404 if isinstance(error, KeyError) else 400, MALFORMED)

    def _file_path(self, path: str) -> str:
        name = path.removeprefix(f"{API}file")[1:]
        if "://" in name or "\0" in name or not name.startswith(f"{UPLOADS}/"):
            raise Refusal(403, "Only uploaded files are served.")
        return f"{API}file={self.folder}{name.removeprefix(UPLOADS)}"

    async def _checked_body(self, receive: Receive) -> Receive:
        """Checks the JSON of a request, inserts the real folder, and returns a new `receive`."""
        content = b""
        is_more = True
        while is_more:
            message = await receive()
            if message["type"] != "http.request":  # the client has disconnected
                return receive
            content += message.get("body", b"")
            is_more = message.get("more_body", False)
            if len(content) > MAX_JSON_BYTES:
                raise Refusal(413, "The request is too large.")
        try:
            body = json.loads(content, parse_constant=_refuse_constant)
            content = json.dumps(self._with_folder(body), allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:  # also for lone surrogates and 1e999
            raise Refusal(400, "The request is not JSON.") from error
        if not isinstance(body, dict):
            raise Refusal(422, "The request is not a JSON object.")
        sent = False

        async def give() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": content, "more_body": False}

        return give

    def _with_folder(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._with_folder(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._with_folder(item) for item in value]
        if isinstance(value, str) and value.startswith(f"{UPLOADS}/"):
            return self.folder + value.removeprefix(UPLOADS)
        return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Answer:
    """
    Sends a response without folders of the server.

    The start is delayed until the first content, since streaming endpoints report an unknown session or event in their
    first message.
    """

    def __init__(self, send: Send, folder: str, path: str) -> None:
        self._send = send
        self._folder = folder.encode()
        self._is_direct = path.startswith((f"{API}run/", f"{API}api/"))
        self._held: list[Message] = []
        self._has_started = False
        self._is_text = False
        self._is_over = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            content_type = dict(message["headers"]).get(b"content-type", b"")
            self._is_text = content_type.startswith((b"application/json", b"text/"))
            self._held.append(message)
            return
        if message["type"] == "http.response.body":
            message = self._without_folder(message)
            self._is_over = not message.get("more_body", False)
        if not self._has_started and not self._is_over and _may_be_refusal(message):
            self._held.append(message)
            return
        await self.finish()
        await self._send(message)

    async def finish(self) -> None:
        held, self._held = self._held, []
        for message in held:
            self._has_started = True
            await self._send(message)

    async def refuse(self, status: int, detail: str) -> None:
        if not self._has_started:
            content = JSONResponse({"detail": detail}, status)
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content.body)).encode())]
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": content.body})
        elif not self._is_over:
            await self._send({"type": "http.response.body", "body": b""})

    def _without_folder(self, message: Message) -> Message:
        body = message.get("body", b"")
        start = self._held[0] if self._held else None
        if self._is_text and self._folder in body:
            body = body.replace(self._folder, UPLOADS.encode())
            if start is not None:
                length = str(len(body)).encode()
                headers = [(key, length if key == b"content-length" else value) for key, value in start["headers"]]
                start["headers"] = headers
        if start is not None and self._is_direct and start["status"] == 500 and UNEXPECTED.encode() not in body:
            start["status"] = 422  # as Gradio does for other invalid arguments
        return {**message, "body": body}


def _may_be_refusal(message: Message) -> bool:
    body = message.get("body", b"")
    return body.startswith(b"event: error") or b'"session_not_found":true' in body or not body


def answer_in_one_line(app: gradio.Blocks) -> None:
    """Refuses invalid arguments with one line. Gradio would write a traceback to the log."""
    process = app.process_api

    async def process_or_refuse(*args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return await process(*args, **kwargs)
        except InvalidPathError as error:
            raise gradio.Error(NOT_UPLOADED, print_exception=False) from error
        except gradio.Error as error:
            raise gradio.Error(one_line(error.message), print_exception=False) from error
        except Exception as error:
            logger.info("refused: %s", one_line(repr(error))[:300])
            raise gradio.Error(MALFORMED, print_exception=False) from error

    app.process_api = process_or_refuse  # type: ignore[method-assign]


def without_urls(component: Input) -> Input:
    """
    Makes a component refuse URLs, which Gradio would download without limits.

    (It is not a subclass, since Gradio writes a file beside the source of subclasses.)
    """
    move = component.async_move_resource_to_block_cache

    async def move_unless_url(url_or_file_path: str | Path | None) -> str | None:
        if url_or_file_path is not None and "://" in str(url_or_file_path):
            raise gradio.Error(NO_URLS, print_exception=False)
        return await move(url_or_file_path)

    component.async_move_resource_to_block_cache = move_unless_url  # type: ignore[method-assign]
    return component
