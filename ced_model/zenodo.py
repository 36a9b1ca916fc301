# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Downloads the published original checkpoints from Zenodo."""

import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from filelock import FileLock, Timeout
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import cached_assets_path, get_session, hf_raise_for_status

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


class DownloadError(OSError):
    """Raised if a download fails. The message is one line with the reason and the remedy."""


class Published(NamedTuple):
    """A file of a Zenodo record."""

    url: str
    size: int
    md5: str  # 32 hexadecimal digits


def download_checkpoint(size: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """
    Downloads a published original checkpoint from Zenodo, continuing an earlier download.

    The file is verified with the checksum in Zenodo's API, which is stored next to it as `NAME.md5`. An existing file
    is verified with this checksum, without network access, and downloaded again if it differs.

    Args:
        size: `"tiny"`, `"mini"`, `"small"` or `"base"`.
        folder: Folder for the file, by default in huggingface_hub's cache.

    Returns:
        `Path`: the `.pt` file.

    Raises:
        `DownloadError`: if the size is unknown, Zenodo cannot be reached, the download was interrupted, another process
            is downloading the file, or its checksum is wrong.
    """
    if size not in ORIGINAL_CHECKPOINTS:
        raise DownloadError(f"{size} is not a published size: choose from {', '.join(ORIGINAL_CHECKPOINTS)}.")
    name = ORIGINAL_CHECKPOINTS[size]
    try:
        directory = Path(folder) if folder is not None else cached_assets_path("ced_model", "zenodo", "checkpoints")
        directory.mkdir(parents=True, exist_ok=True)
        # The lock of the operating system ends with the process.
        with FileLock(directory / f"{name}.lock", timeout=0):
            return _download(directory / name)
    except DownloadError:
        raise
    except Timeout as error:
        raise DownloadError(
            f"another process is downloading {name}: wait until it is done, then run the same command again."
        ) from error
    except (OSError, HTTPError) as error:
        reason = one_line(error) or type(error).__name__
        raise DownloadError(
            f"the download of {name} was interrupted ({reason}): run the same command again to resume it."
        ) from error


def _download(path: Path) -> Path:
    checksum_file, part = path.with_name(f"{path.name}.md5"), path.with_name(f"{path.name}.part")
    known = _read_checksum(checksum_file)
    if path.exists() and known is not None:
        if _digest_of(path, "md5") == known:
            return path
        logger.warning(f"{path} has a wrong checksum: downloading it again")
    published = _look_up(path.name)
    if not path.exists() or _digest_of(path, "md5") != published.md5:
        had_part = part.exists()
        _fetch(published, part)
        if had_part and _digest_of(part, "md5") != published.md5:  # the part may belong to another file
            part.unlink()
            _fetch(published, part)
        actual = _digest_of(part, "md5")
        if actual != published.md5:
            part.unlink()
            raise DownloadError(
                f"the download of {path.name} is damaged: md5 {actual}, but the record has {published.md5}. It was"
                " removed: run the same command again."
            )
        os.replace(part, path)
    checksum_file.write_text(f"{published.md5}  {path.name}\n")  # for `md5sum -c`
    return path


def _read_checksum(file: Path) -> str | None:
    try:
        match = re.match(r"([0-9a-f]{32}) ", file.read_text())
    except (OSError, ValueError):
        return None
    return match[1] if match else None


def _look_up(name: str) -> Published:
    """URL, size and checksum of a file, which is in one of two Zenodo records."""
    *others, last = ZENODO_RECORDS
    for record in others:
        try:
            return _look_up_in(record, name)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
    return _look_up_in(last, name)


def _look_up_in(record: str, name: str) -> Published:
    url = urljoin(ZENODO_URL, f"/api/records/{record}")
    file_url = f"{ZENODO_URL}/{record}/files/{name}?download=1"
    elsewhere = f"download {file_url} (or from record {ZENODO_RECORDS[1]}) elsewhere and give the file as SOURCE."
    try:
        response = get_session().get(url, timeout=TIMEOUT_S)
    except HTTPError as error:
        host = urlsplit(ZENODO_URL).netloc
        raise DownloadError(
            f"{host} cannot be reached: check the network, or {elsewhere} ({one_line(error)})"
        ) from error
    hf_raise_for_status(response)
    try:
        (size, checksum), *_ = (
            (file["size"], file["checksum"]) for file in json.loads(response.content)["files"] if file["key"] == name
        )
        if type(size) is not int or not re.fullmatch("md5:[0-9a-f]{32}", checksum):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DownloadError(f"{url} has no checksum of {name}: {elsewhere}") from error
    return Published(file_url, size, checksum.removeprefix("md5:"))


def _fetch(published: Published, part: Path) -> None:
    """Downloads a file to `part`, after its existing bytes; huggingface_hub retries after an interruption."""
    offset = part.stat().st_size if part.exists() else 0
    if offset > published.size:
        offset = 0
    with open(part, "ab" if offset else "wb") as file:
        http_get(published.url, file, resume_size=offset, expected_size=published.size, displayed_filename=part.stem)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return _digest_of(path, "sha256")


def _digest_of(path: str | os.PathLike[str], algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
