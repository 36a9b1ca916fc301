# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Reads bodies of requests: audio and options.

Decoders read files, so the audio is written to a file in memory (`memfd_create`) on Linux. Other systems use a
temporary file that is deleted when it is closed.
"""

import asyncio
import base64
import binascii
import io
import json
import math
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from .settings import MEGABYTE, ClientGone, Refusal, Settings

MIN_BYTES_PER_S = 10_000  # minimum average rate of uploads that take longer than the timeout
MAX_FIELD_BYTES = 100_000  # of a form, in addition to its file
IN_MEMORY = {"MAX_MEMORY_FILE_SIZE": math.inf}
MAX_JSON_BYTES = 16 * MEGABYTE  # parsing blocks all other requests
BODIES_IN_MEMORY = 4  # number of bodies of the maximum size
RAW_TYPES = ("", "application/octet-stream", "application/ogg", "application/x-npy")
WANTED = "multipart/form-data with a file, a type such as audio/wav, application/octet-stream, or application/json"


class Memory:
    """Limits the total size of bodies in memory."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0

    def take(self, size: int) -> None:
        if self.taken + size > self.limit:
            raise Refusal(503, "too many simultaneous uploads; try again later", retry_after_s=5)
        self.taken += size


class Upload:
    """The audio of a request, as a file or an array of floats from JSON, and its options."""

    def __init__(self, memory: Memory) -> None:
        self.array: np.ndarray | None = None
        self.fields: dict[str, Any] = {}
        self.has_audio = False
        self.size = 0
        self._memory = memory
        self.file: BinaryIO
        if hasattr(os, "memfd_create"):
            self.file = os.fdopen(os.memfd_create("audio", os.MFD_CLOEXEC), "w+b", buffering=0)
        else:
            self.file = tempfile.TemporaryFile(buffering=0)

    def take_memory(self, size: int) -> None:
        """Reserves memory for a part of the body."""
        self._memory.take(size)
        self.size += size

    def write(self, data: bytes | memoryview) -> None:
        self.has_audio = True
        self.file.write(data)

    def content(self) -> bytes:
        self.file.seek(0)
        return self.file.read()

    def close(self) -> None:
        self.file.close()
        self._memory.taken -= self.size
        self.size = 0


async def read_body(request: Request, upload: Upload, settings: Settings) -> None:
    """
    Reads the body of a request into `upload`.

    Raises:
        Refusal: if the body is too large, too slow, truncated or of an unsupported type.
        ClientGone: if the client closes the connection.
    """
    header = request.headers.get("content-type", "")
    kind, parameters = parse_options_header(header)
    content_type = kind.decode("latin-1").lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, f"content encoding {request.headers['content-encoding']!r}: send the file without encoding")
    is_raw = content_type in RAW_TYPES or content_type.startswith(("audio/", "video/"))
    if not is_raw and content_type not in ("multipart/form-data", "application/json"):
        raise Refusal(415, f"content type {content_type!r}: expected {WANTED}")
    limit = min(settings.max_bytes, MAX_JSON_BYTES) if content_type == "application/json" else settings.max_bytes
    chunks = _chunks(request, upload, limit, settings.body_timeout_s)
    if content_type == "multipart/form-data":
        if b"boundary" not in parameters:
            raise Refusal(400, "multipart/form-data requires a boundary")
        await _read_form(chunks, parameters[b"boundary"], upload)
    elif is_raw:
        async for chunk in chunks:
            upload.write(chunk)
    else:
        _read_json(b"".join([chunk async for chunk in chunks]), upload)
    if not upload.has_audio and upload.array is None:
        raise Refusal(400, f"no audio in the request: expected {WANTED}")


async def _chunks(request: Request, upload: Upload, limit: int, timeout_s: float) -> AsyncIterator[bytes]:
    """Yields the body as it arrives."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit + MAX_FIELD_BYTES:
        raise _too_large(limit)
    clock = asyncio.get_running_loop().time
    began, received = clock(), 0
    while True:
        left_s = began + timeout_s + received / MIN_BYTES_PER_S - clock()
        try:
            async with asyncio.timeout(max(0.0, min(left_s, timeout_s))):
                message = await request.receive()
        except TimeoutError:
            reason = f"no data for {timeout_s:g} s, or less than {MIN_BYTES_PER_S // 1000} kB/s"
            raise Refusal(408, f"the body did not arrive in time: {reason}") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > limit + MAX_FIELD_BYTES:
            raise _too_large(limit)
        upload.take_memory(len(chunk))
        yield chunk
        if not message.get("more_body", False):
            return


def add_value(values: dict[str, Any], name: str, value: str) -> None:
    """Adds the value of a field or parameter. Several values of one name become a list."""
    before = values.get(name)
    values[name] = value if before is None else [*(before if isinstance(before, list) else [before]), value]


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body is too large: expected at most {limit / MEGABYTE:g} MB")


async def _read_form(chunks: AsyncIterator[bytes], boundary: bytes, upload: Upload) -> None:
    ends: list[bool] = []

    def take_field(field: Field) -> None:
        add_value(upload.fields, _text(field.field_name), _text(field.value))

    def take_file(file: File) -> None:
        if file.field_name != b"file":
            raise Refusal(400, f"a file in the field {_text(file.field_name)!r}: expected it in the field 'file'")
        if upload.has_audio:
            raise Refusal(400, "more than one file: send one per request")
        content = file.file_object
        assert isinstance(content, io.BytesIO)
        upload.write(content.getbuffer())

    kind = "multipart/form-data"
    try:
        form = FormParser(kind, take_field, take_file, lambda: ends.append(True), boundary, config=IN_MEMORY)
        async for chunk in chunks:
            form.write(chunk)
    except FormParserError as error:
        raise Refusal(400, f"not a valid {kind} body: {error}") from error
    if not ends:
        raise Refusal(400, f"the {kind} body is incomplete")


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def _read_json(body: bytes, upload: Upload) -> None:
    """`{"array": [samples], "sampling_rate": Hz}` or `{"audio": base64 of a file}`, with further options."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Refusal(400, "the JSON body must be an object")
    array, audio = fields.pop("array", None), fields.pop("audio", None)
    upload.fields = fields
    if (array is None) == (audio is None):
        raise Refusal(400, 'the JSON body requires "array", a list of samples, or "audio", a file in base64')
    if audio is not None:
        try:
            upload.write(base64.b64decode(audio, validate=True))
        except (binascii.Error, ValueError, TypeError):
            raise Refusal(400, '"audio" is not a base64 string') from None
        return
    try:
        upload.array = np.array(array, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        raise Refusal(422, '"array" must be a list of numbers, or of a list for each channel') from None
    if not isinstance(array, list):
        raise Refusal(422, '"array" must be a list of numbers, or of a list for each channel')
    if "sampling_rate" not in fields:
        raise Refusal(422, '"array" requires "sampling_rate", in Hz')
