# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The published original checkpoints, downloaded from Zenodo."""

import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit

from filelock import FileLock, Timeout
from huggingface_hub.utils import cached_assets_path, tqdm

from .messages import one_line

logger = logging.getLogger(__name__)

ZENODO_URL = "https://zenodo.org/records"
ZENODO_RECORDS = ("8275347", "8275319")
ORIGINAL_CHECKPOINTS: dict[str, str] = {
    "tiny": "audiotransformer_tiny_mAP_4814.pt",
    "mini": "audiotransformer_mini_mAP_4896.pt",
    "small": "audiotransformer_small_mAP_4958.pt",
    "base": "audiotransformer_base_mAP_4999.pt",
}
TIMEOUT_S = 60
MIN_BYTES = 64 * 1024  # that must arrive in each `TIMEOUT_S`: a slower server counts as one that does not answer
BLOCK_SIZE = 1 << 20  # bytes
MAX_RECORD_BYTES = 8 << 20  # a record's description has some 20 kB


class DownloadError(OSError):
    """Why a checkpoint was not downloaded: one line that says what happened and what to do."""


class Published(NamedTuple):
    """A file as its Zenodo record describes it."""

    url: str
    size: int
    checksum: str  # "md5:" and 32 hexadecimal digits


def download_checkpoint(size: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """
    Downloads a published original checkpoint from Zenodo, resuming what an earlier call began.

    The file is compared with the checksum that Zenodo's API gives for it, which is kept beside it as `NAME.md5`. A file
    that is there already is compared with that, without the network, and downloaded again if it differs.

    Args:
        size (`str`):
            `"tiny"`, `"mini"`, `"small"` or `"base"`.
        folder (`str` or `os.PathLike`, *optional*):
            Where to keep the file; by default huggingface_hub's cache.

    Returns:
        `Path`: the `.pt` file.

    Raises:
        `DownloadError`: with one line, if the size is unknown, there is no network, the download broke off or stalled,
            another process is downloading the file, or the file does not have its checksum.
    """
    if size not in ORIGINAL_CHECKPOINTS:
        raise DownloadError(f"{size} is no published size: choose from {', '.join(ORIGINAL_CHECKPOINTS)}.")
    name = ORIGINAL_CHECKPOINTS[size]
    host = urlsplit(ZENODO_URL).netloc
    try:
        directory = Path(folder) if folder is not None else cached_assets_path("ced_model", "zenodo", "checkpoints")
        directory.mkdir(parents=True, exist_ok=True)
        # The lock is the operating system's: it ends with the process that holds it.
        with FileLock(directory / f"{name}.lock", timeout=0):
            return _download(directory / name)
    except DownloadError:
        raise
    except Timeout as error:
        raise DownloadError(
            f"another process is downloading {name}: wait until it is done, then run the same command again."
        ) from error
    except HTTPError as error:
        raise DownloadError(f"{host} did not give {name}: {error.code} {one_line(error.reason)}") from error
    except URLError as error:
        raise DownloadError(
            f"{host} cannot be reached; is there no network? Download {_file_url(ZENODO_RECORDS[0], name)} (or from"
            f" record {ZENODO_RECORDS[1]}) elsewhere and give the file as SOURCE. ({_reason(error.reason)})"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"the download of {name} broke off ({_reason(error)}): run the same command again to resume it."
        ) from error


def _download(path: Path) -> Path:
    checksum_file, part = path.with_name(f"{path.name}.md5"), path.with_name(f"{path.name}.part")
    known = _read_checksum(checksum_file)
    if path.exists() and known is not None:
        if _md5_of(path) == known:
            return path
        logger.warning(f"{path} does not have its checksum: it is downloaded again")
    published = _look_up(path.name)
    expected = published.checksum.removeprefix("md5:")
    if not path.exists() or _md5_of(path) != expected:
        had_part = part.exists()
        _fetch(published.url, part)
        if had_part and _md5_of(part) != expected:  # what was there may be of something else
            part.unlink()
            _fetch(published.url, part)
        actual = _md5_of(part)
        if actual != expected:
            size = part.stat().st_size
            part.unlink()
            raise DownloadError(
                f"the download of {path.name} is damaged: md5 {actual} and {size:,} bytes, but the record has"
                f" {expected} and {published.size:,}. It was removed: run the same command again."
            )
        os.replace(part, path)
    checksum_file.write_text(f"{expected}  {path.name}\n")  # as `md5sum -c` reads it
    return path


def _read_checksum(file: Path) -> str | None:
    try:
        match = re.match(r"([0-9a-f]{32}) ", file.read_text())
    except (OSError, ValueError):
        return None
    return match[1] if match else None


def _file_url(record: str, name: str) -> str:
    return f"{ZENODO_URL}/{record}/files/{name}?download=1"


def _look_up(name: str) -> Published:
    """Where a file is, its size and its checksum; Zenodo has the files in two records."""
    *others, last = ZENODO_RECORDS
    for record in others:
        try:
            return _look_up_in(record, name)
        except HTTPError as error:
            if error.code != 404:
                raise
    return _look_up_in(last, name)


def _look_up_in(record: str, name: str) -> Published:
    url = urljoin(ZENODO_URL, f"/api/records/{record}")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        if response.headers.get_content_type() == "text/html":  # a hotel's log-in page, say
            raise URLError(f"{url} gave a web page")
        content = b""
        for block in _read_blocks(response):
            content += block
            if len(content) > MAX_RECORD_BYTES:
                break
    try:
        described = {file["key"]: (file["size"], file["checksum"]) for file in json.loads(content)["files"]}
        size, checksum = described[name] if name in described else (0, "")
        if name in described and (type(size) is not int or not re.fullmatch("md5:[0-9a-f]{32}", checksum)):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DownloadError(
            f"{url} is not the description of a record with checksums: download"
            f" {_file_url(record, name)} elsewhere and give the file as SOURCE."
        ) from error
    if name not in described:
        raise HTTPError(url, 404, "the record does not have it", response.headers, None)
    return Published(_file_url(record, name), size, checksum)


def _fetch(url: str, part: Path) -> None:
    """Downloads `url` into `part`, after the bytes that are there if the server can do that; raises if cut short."""
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code != 416:
            raise
        _, total = _content_range(error.headers)
        if total in (None, offset):  # nothing is left to fetch
            return
        part.unlink()
        return _fetch(url, part)
    with response:
        if response.headers.get_content_type() == "text/html":  # a hotel's log-in page, say
            raise URLError(f"{url} gave a web page")
        start, total = 0, _to_int(response.headers.get("Content-Length"))
        if response.status == 206:
            start, total = _content_range(response.headers)
            if start != offset:
                part.unlink()
                return _fetch(url, part)
        _write_blocks(response, part, start, total)
    size = part.stat().st_size
    if total is not None and size != total:
        raise http.client.HTTPException(f"{size:,} of {total:,} bytes")


def _content_range(headers: Message) -> tuple[int, int | None]:
    """First byte and size of the whole file from `Content-Range: bytes 5-9/10`, `bytes */10` or `bytes 5-9/*`."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range") or "")
    return (int(match[1] or 0), _to_int(match[2])) if match else (-1, None)


def _to_int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _write_blocks(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    name = part.name.removesuffix(".part")
    with (
        open(part, "ab" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=name) as progress,
    ):
        for block in _read_blocks(response):
            file.write(block)
            progress.update(len(block))


def _read_blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The content of a response as it arrives; raises TimeoutError if hardly anything does."""
    deadline, received = time.monotonic() + TIMEOUT_S, 0
    while block := response.read1(BLOCK_SIZE):
        yield block
        received += len(block)
        if time.monotonic() > deadline:
            if received < MIN_BYTES:
                raise TimeoutError(f"only {received:,} bytes in {TIMEOUT_S:g} s")
            deadline, received = time.monotonic() + TIMEOUT_S, 0


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return _digest_of(path, "sha256")


def _md5_of(path: Path) -> str:
    return _digest_of(path, "md5")


def _digest_of(path: str | os.PathLike[str], algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _reason(error: object) -> str:
    return one_line(error) or type(error).__name__
