# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Finds when recordings began, from the metadata and file names of field recorders.

GUANO (https://github.com/riggsd/guano-spec): a chunk `guan` with lines `key: value`; `Timestamp` is ISO 8601.
Broadcast WAV (EBU Tech 3285): a chunk `bext` with OriginationDate and OriginationTime, local times. AudioMoth: a
comment "Recorded at 19:17:30 14/12/2019 (UTC+2) by AudioMoth …" in the chunk `LIST` INFO ICMT.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from .messages import OptionError
from .wav_headers import metadata_chunks

AUTO, NONE = "auto", "none"
CHUNKS = (b"guan", b"LIST", b"bext")  # chunks of WAV files that may have a time
# 20240501_053000, 20240501$053000 (Song Meter SM2 and SM3), 20240501T053000Z, 2024-05-01_05-30-00
IN_NAME = re.compile(
    r"(?<!\d)(\d{4})([-_.]?)(\d\d)\2(\d\d)(?:[_$T -]|__)(\d\d)([-_.:h]?)(\d\d)\6(\d\d)(?!\d)"
    r"(\.\d{1,6}(?=Z|[+-]\d\d))?(?:(Z)|([+-]\d\d):?(\d\d)(?!\d))?"
)
HEXADECIMAL = re.compile(r"[0-9A-F]{8}", re.IGNORECASE)  # Unix time, of the first AudioMoths
FIRST_AUDIOMOTH, LAST_AUDIOMOTH = 0x5685C180, 0x7FFFFFFF  # 2016 to 2038
AUDIOMOTH = re.compile(
    r"Recorded at (\d\d):(\d\d):(\d\d)(\.\d+)? (\d\d)/(\d\d)/(\d{4}) \(UTC(?:([+-])(\d\d?)(?::?(\d\d))?)?\)"
)
OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d\d?)(?::?(\d\d))?", re.IGNORECASE)


def parse_timezone(name: str | None) -> tzinfo | None:
    """
    A time zone by its name, such as `"Europe/Berlin"`, or offset, such as `"+02:00"`.

    Raises:
        OptionError: if there is no such zone.
    """
    if name is None:
        return None
    if isinstance(name, str):
        if match := OFFSET.fullmatch(name.strip()):
            with suppress(ValueError):
                return _zone(*match.groups())
        with suppress(KeyError, ValueError, OSError):  # ZoneInfo also raises those for folders and other files
            return UTC if name.upper() in ("UTC", "Z") else ZoneInfo(name)
    raise OptionError("timezone", name, "a time zone such as Europe/Berlin, UTC or +02:00")


def parse_start_time(start_time: str | datetime | None) -> str | datetime | None:
    """
    Parses `"auto"`, a time, or `"none"` (returns None).

    Raises:
        OptionError: for any other value.
    """
    if start_time is None or start_time == NONE:
        return None
    if start_time == AUTO or isinstance(start_time, datetime):
        return start_time
    with suppress(ValueError, TypeError):
        if not re.fullmatch(r"[\d-]{,10}", start_time):  # a date without a time
            return datetime.fromisoformat(start_time)
    raise OptionError("start_time", start_time, "auto, none or a time such as 2024-05-01T05:30:00")


def recorded_at(source: Any, start_time: str | datetime | None = AUTO, zone: tzinfo | None = None) -> str | None:
    """
    When a recording began, as ISO 8601 text.

    Args:
        source: An input of a tagger. Only files, their bytes, and file objects with a `name` have times.
        start_time: `"auto"` to find it in the file's header or name, a time, or None.
        zone: Time zone of times without one. Without it, these are returned as local times without an offset from UTC.

    Returns:
        A text such as `"2024-05-01T05:30:00+02:00"`, or None if the time is not known.
    """
    began = _found(source) if start_time == AUTO else start_time
    if not isinstance(began, datetime):
        return None
    return (began.replace(tzinfo=zone) if began.tzinfo is None and zone is not None else began).isoformat()


def _found(source: Any) -> datetime | None:
    if isinstance(source, bytes):  # the content of a file
        with suppress(ValueError):
            return from_chunks(metadata_chunks(io.BytesIO(source), CHUNKS))
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return recording_start(path) if isinstance(path, str | os.PathLike) else None


def recording_start(path: str | os.PathLike[str]) -> datetime | None:
    """When the recording in a file began: from GUANO, AudioMoth's comment, Broadcast WAV or the name, in this order."""
    chunks: dict[bytes, bytes] = {}
    with suppress(OSError, ValueError):
        if os.path.isfile(path):  # opening a pipe would wait for its writer
            with open(path, "rb") as file:
                chunks = metadata_chunks(file, CHUNKS)
    return from_chunks(chunks) or from_name(os.path.basename(os.fspath(path)))


def from_chunks(chunks: dict[bytes, bytes]) -> datetime | None:
    """The time in the metadata chunks of a WAV file, by identifier (`guan`, `LIST`, `bext`)."""
    for name, read in ((b"guan", _from_guano), (b"LIST", _from_comment), (b"bext", _from_bext)):
        with suppress(ValueError, OverflowError):
            if (found := read(chunks.get(name, b""))) is not None:
                return found
    return None


def from_name(name: str) -> datetime | None:
    """The time in a file name, such as `SITE_20240501_053000.wav`, or `5AFF7A00.WAV`."""
    stem, extension = os.path.splitext(name)
    for match in IN_NAME.finditer(stem):
        year, _, month, day, hour, _, minute, second, fraction, utc, zone_hours, zone_minutes = match.groups()
        with suppress(ValueError, OverflowError):
            zone = UTC if utc else _zone(zone_hours[0], zone_hours[1:], zone_minutes) if zone_hours else None
            began = datetime(*map(int, (year, month, day, hour, minute, second)), tzinfo=zone)  # type: ignore[misc,arg-type]
            return began + timedelta(seconds=float(fraction or 0))
    if HEXADECIMAL.fullmatch(stem) and extension.lower() == ".wav":
        seconds = int(stem, 16)
        if FIRST_AUDIOMOTH <= seconds <= LAST_AUDIOMOTH:
            return datetime.fromtimestamp(seconds, UTC)
    return None


def _from_guano(content: bytes) -> datetime | None:
    for line in content.decode("utf-8", "replace").replace("\0", "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Timestamp":
            return datetime.fromisoformat(value.strip())
    return None


def _from_comment(content: bytes) -> datetime | None:
    for comment in _info(content, b"ICMT"):
        if match := AUDIOMOTH.search(comment.decode("latin-1")):
            hour, minute, second, fraction, day, month, year, sign, zone_hours, zone_minutes = match.groups()
            zone = UTC if sign is None else _zone(sign, zone_hours, zone_minutes)
            began = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=zone)
            return began + timedelta(seconds=float(fraction or 0))
    return None


def _info(content: bytes, wanted: bytes) -> Iterator[bytes]:
    """The entries of a chunk `LIST` of type INFO."""
    position = 4 if content[:4] == b"INFO" else len(content)
    while position + 8 <= len(content):
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        if content[position : position + 4] == wanted:
            yield content[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _from_bext(content: bytes) -> datetime | None:
    numbers = re.fullmatch(rb"(\d{4}).(\d\d).(\d\d)(\d\d).(\d\d).(\d\d)", content[320:338])
    return datetime(*map(int, numbers.groups())) if numbers else None  # type: ignore[arg-type]


def _zone(sign: str, hours: str, minutes: str | None) -> timezone:
    return timezone((-1 if sign == "-" else 1) * timedelta(hours=int(hours), minutes=int(minutes or 0)))
