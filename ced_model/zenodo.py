# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The published original checkpoints, downloaded from Zenodo."""

import hashlib
import http.client
import os
import re
import urllib.request
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from huggingface_hub.utils import cached_assets_path, tqdm

ZENODO_URL = "https://zenodo.org/records"
ZENODO_RECORDS = ("8275347", "8275319")
ORIGINAL_CHECKPOINTS: dict[str, str] = {
    "tiny": "audiotransformer_tiny_mAP_4814.pt",
    "mini": "audiotransformer_mini_mAP_4896.pt",
    "small": "audiotransformer_small_mAP_4958.pt",
    "base": "audiotransformer_base_mAP_4999.pt",
}
TIMEOUT_S = 60
BLOCK_SIZE = 1 << 20  # bytes


class DownloadError(OSError):
    """Why a checkpoint was not downloaded: one line that says what happened and what to do."""


def download_checkpoint(size: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """
    Downloads a published original checkpoint from Zenodo, resuming what an earlier call began.

    Args:
        size (`str`):
            `"tiny"`, `"mini"`, `"small"` or `"base"`.
        folder (`str` or `os.PathLike`, *optional*):
            Where to keep the file; by default huggingface_hub's cache. A complete file there is not downloaded again.

    Returns:
        `Path`: the `.pt` file.

    Raises:
        `DownloadError`: with one line, if the size is unknown, or there is no network, or the download broke off.
    """
    if size not in ORIGINAL_CHECKPOINTS:
        raise DownloadError(f"{size} is no published size: choose from {', '.join(ORIGINAL_CHECKPOINTS)}.")
    name = ORIGINAL_CHECKPOINTS[size]
    urls = [f"{ZENODO_URL}/{record}/files/{name}?download=1" for record in ZENODO_RECORDS]
    host = urlsplit(ZENODO_URL).netloc
    try:
        directory = Path(folder) if folder is not None else cached_assets_path("ced_model", "zenodo", "checkpoints")
        directory.mkdir(parents=True, exist_ok=True)
        path, part = directory / name, directory / f"{name}.part"
        if not path.exists():
            _fetch_first(urls, part)
            os.replace(part, path)
        return path
    except HTTPError as error:
        raise DownloadError(f"{host} did not give {name}: {error.code} {error.reason}") from error
    except URLError as error:
        raise DownloadError(
            f"{host} cannot be reached; is there no network? Download {urls[0]} (or from record {ZENODO_RECORDS[1]})"
            f" elsewhere and give the file as SOURCE. ({_one_line(error.reason)})"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"the download of {name} broke off ({_one_line(error)}): run the same command again to resume it."
        ) from error


def _fetch_first(urls: Sequence[str], part: Path) -> None:
    """Fetches the first of `urls` that exists; Zenodo has the files in two records."""
    *others, last = urls
    for url in others:
        try:
            return _fetch(url, part)
        except HTTPError as error:
            if error.code != 404:
                raise
    return _fetch(last, part)


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
        while block := response.read(BLOCK_SIZE):
            file.write(block)
            progress.update(len(block))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
