# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Bodies of requests → audio in memory, and options.

A body is written into memory that is a file without a name (`memfd_create`), since decoders in C read files. It is
never on the disk on Linux; elsewhere it is a temporary file that no folder lists.
"""

import asyncio
import base64
import binascii
import json
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from .settings import MEGABYTE, ClientGone, Refusal, Settings

MIN_BYTES_PER_S = 10_000  # on average, of clients that send longer than the timeout
MAX_FIELD_BYTES = 100_000  # of all fields of a form together
MAX_JSON_BYTES = 16 * MEGABYTE  # parsing holds up all others
BODIES_IN_MEMORY = 4  # of the largest size
RAW_TYPES = ("", "application/octet-stream", "application/ogg", "application/x-npy")
WANTED = "multipart/form-data with a file, a type such as audio/wav, application/octet-stream, or application/json"


class Memory:
    """Bytes of bodies that may be in memory at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0

    def take(self, size: int) -> None:
        if self.taken + size > self.limit:
            raise Refusal(503, "too many uploads at a time; try again later", retry_after_s=5)
        self.taken += size


class Upload:
    """The audio of a request: a file in memory, or an array of floats from JSON; with the options beside it."""

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

    def write(self, data: bytes) -> None:
        self._memory.take(len(data))
        self.size += len(data)
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
        Refusal: for a body that is too large, too slow, cut off, or of another type.
        ClientGone: if the client closes its connection.
    """
    header = request.headers.get("content-type", "")
    kind, parameters = parse_options_header(header)
    content_type = kind.decode("latin-1").lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, f"content encoding {request.headers['content-encoding']!r}: send the file as it is")
    is_raw = content_type in RAW_TYPES or content_type.startswith(("audio/", "video/"))
    if not is_raw and content_type not in ("multipart/form-data", "application/json"):
        raise Refusal(415, f"content type {content_type!r}: expected {WANTED}")
    limit = min(settings.max_bytes, MAX_JSON_BYTES) if content_type == "application/json" else settings.max_bytes
    chunks = _chunks(request, limit, settings.body_timeout_s)
    if content_type == "multipart/form-data":
        await _read_form(chunks, parameters.get(b"boundary", b""), upload)
    elif is_raw:
        async for chunk in chunks:
            upload.write(chunk)
    else:
        _read_json(b"".join([chunk async for chunk in chunks]), upload)
    if not upload.has_audio and upload.array is None:
        raise Refusal(400, f"no audio in the request: expected {WANTED}")


async def _chunks(request: Request, limit: int, timeout_s: float) -> AsyncIterator[bytes]:
    """The body as it arrives."""
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
        yield chunk
        if not message.get("more_body", False):
            return


def add_value(values: dict[str, Any], name: str, value: str) -> None:
    """Adds the value of a field or parameter; several with one name become a list."""
    before = values.get(name)
    values[name] = value if before is None else [*(before if isinstance(before, list) else [before]), value]


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body is too large: expected at most {limit / MEGABYTE:g} MB")


async def _read_form(chunks: AsyncIterator[bytes], boundary: bytes, upload: Upload) -> None:
    if not boundary:
        raise Refusal(400, "multipart/form-data without a boundary")
    form = _Form(boundary, upload)
    try:
        async for chunk in chunks:
            form.parser.write(chunk)
    except FormParserError as error:
        raise Refusal(400, f"not a valid multipart/form-data body: {error}") from error
    if not form.is_over:
        raise Refusal(400, "the multipart/form-data body ends in the middle")


class _Form:
    """Parts of a form as they are parsed: the file goes into an [`Upload`], the others become its fields."""

    def __init__(self, boundary: bytes, upload: Upload) -> None:
        self.upload = upload
        self.is_over = False
        self.name, self.is_file = "", False
        self.header, self.value, self.field_bytes = b"", b"", 0
        self.disposition = b""
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self.begin,
                "on_header_begin": self.begin_header,
                "on_header_field": self.add_header,
                "on_header_value": self.add_value,
                "on_header_end": self.end_header,
                "on_headers_finished": self.end_headers,
                "on_part_data": self.add_data,
                "on_part_end": self.end,
                "on_end": self.finish,
            },
        )

    def begin(self) -> None:
        self.disposition = self.value = b""

    def begin_header(self) -> None:
        self.header = self.value = b""

    def add_header(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def add_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def end_header(self) -> None:
        if self.header.lower() == b"content-disposition":
            self.disposition = self.value

    def end_headers(self) -> None:
        _, options = parse_options_header(self.disposition)
        self.name, self.value = options.get(b"name", b"").decode("utf-8", "replace"), b""
        self.is_file = self.name == "file"
        if b"filename" in options and not self.is_file:
            raise Refusal(400, f"a file in the field {self.name!r}: expected it in the field 'file'")
        if self.is_file and self.upload.has_audio:
            raise Refusal(400, "more than one file: send one a request")
        self.upload.has_audio |= self.is_file

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self.is_file:
            self.upload.write(data[start:end])
            return
        self.field_bytes += end - start
        if self.field_bytes > MAX_FIELD_BYTES:
            raise Refusal(413, f"the fields of the form are too large: expected at most {MAX_FIELD_BYTES // 1000} kB")
        self.value += data[start:end]

    def end(self) -> None:
        if not self.is_file:
            add_value(self.upload.fields, self.name, self.value.decode("utf-8", "replace"))

    def finish(self) -> None:
        self.is_over = True


def _read_json(body: bytes, upload: Upload) -> None:
    """`{"array": [samples], "sampling_rate": Hz}` or `{"audio": base64 of a file}`, with options beside it."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Refusal(400, "the JSON body is not an object")
    array, audio = fields.pop("array", None), fields.pop("audio", None)
    upload.fields = fields
    if (array is None) == (audio is None):
        raise Refusal(400, 'the JSON body has to have "array", a list of samples, or "audio", a file in base64')
    if audio is not None:
        try:
            upload.write(base64.b64decode(audio, validate=True))
        except (binascii.Error, ValueError, TypeError):
            raise Refusal(400, '"audio" is not a text in base64') from None
        return
    try:
        upload.array = np.array(array, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        raise Refusal(422, '"array" is not a list of numbers, or of a list for each channel') from None
    if not isinstance(array, list):
        raise Refusal(422, '"array" is not a list of numbers, or of a list for each channel')
    if "sampling_rate" not in fields:
        raise Refusal(422, '"array" needs "sampling_rate", in Hz')
