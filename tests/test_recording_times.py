# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Start times of recordings, from files with the exact bytes of field recorders, and from file names."""

import struct
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ced_model import AudioTagger
from ced_model.messages import UsageError
from ced_model.recording_times import from_name, parse_start_time, parse_timezone, recorded_at, recording_start

FORMAT = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
GUANO = b"GUANO|Version: 1.0\nMake: Wildlife Acoustics, Inc.\nTimestamp: 2024-05-01T05:30:00+02:00\nSamplerate: 16000\n"
AUDIOMOTH = b"Recorded at 19:17:30 14/12/2023 (UTC+2) by AudioMoth 0FE081F80FE081F0 at gain setting 2 while battery"


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def bext(date: bytes, time: bytes) -> bytes:
    return chunk(b"bext", b"a dawn chorus".ljust(256, b"\0") + b"\0" * 64 + date + time + b"\0" * 264)


def info(comment: bytes) -> bytes:
    return chunk(b"LIST", b"INFO" + chunk(b"IART", b"AudioMoth 1") + chunk(b"ICMT", comment + b"\0"))


def wav(path: Path, before: bytes = b"", behind: bytes = b"", stated: int | None = None) -> Path:
    samples = b"\1\2" * 16000
    data = b"data" + struct.pack("<I", len(samples) if stated is None else stated) + samples
    body = b"WAVE" + chunk(b"fmt ", FORMAT) + before + data + behind
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize(
    ("before", "behind", "expected"),
    [
        (b"", chunk(b"guan", GUANO), "2024-05-01T05:30:00+02:00"),
        (chunk(b"guan", GUANO), b"", "2024-05-01T05:30:00+02:00"),
        (chunk(b"guan", b"Timestamp:2024-05-01 05:30:00.250Z\n\0"), b"", "2024-05-01T05:30:00.250000+00:00"),
        (chunk(b"guan", b"Timestamp: 2024-05-01T05:30:00\r\n"), b"", "2024-05-01T05:30:00"),
        (info(AUDIOMOTH), b"", "2023-12-14T19:17:30+02:00"),
        (info(AUDIOMOTH.replace(b"UTC+2", b"UTC")), b"", "2023-12-14T19:17:30+00:00"),
        (info(AUDIOMOTH.replace(b"UTC+2", b"UTC-03:30")), b"", "2023-12-14T19:17:30-03:30"),
        (info(AUDIOMOTH.replace(b"17:30", b"17:30.125")), b"", "2023-12-14T19:17:30.125000+02:00"),
        (bext(b"2024-05-01", b"05:30:00"), b"", "2024-05-01T05:30:00"),
        (bext(b"2024:05:01", b"05-30-00"), b"", "2024-05-01T05:30:00"),
        (bext(b"2024-05-01", b"05:30:00"), info(AUDIOMOTH) + chunk(b"guan", GUANO), "2024-05-01T05:30:00+02:00"),
        (bext(b"2024-05-01", b"05:30:00"), info(AUDIOMOTH), "2023-12-14T19:17:30+02:00"),
        # Invalid times are ignored; the file name comes last.
        (bext(b"2024-13-01", b"05:30:00"), b"", "2021-02-03T04:05:06"),
        (bext(b"\0" * 10, b"\0" * 8), chunk(b"guan", b"Timestamp: yesterday\n"), "2021-02-03T04:05:06"),
        (info(b"Recorded at noon"), chunk(b"guan", b"\xff\xfe"), "2021-02-03T04:05:06"),
        (info(AUDIOMOTH.replace(b"14/12", b"14/13")), b"", "2021-02-03T04:05:06"),
        (b"", b"", "2021-02-03T04:05:06"),
    ],
)
@pytest.mark.parametrize("stated", [None, 0], ids=["finished", "unfinished"])
def test_the_time_is_read_from_headers_of_field_recorders(tmp_path, before, behind, expected, stated):
    path = wav(tmp_path / "SITE_20210203_040506.wav", before, behind, stated)
    assert recorded_at(path) == expected
    assert recorded_at(str(path)) == expected


def test_a_wave_file_of_64_bits_has_its_time_as_well(tmp_path):
    path = wav(tmp_path / "a.wav", behind=chunk(b"guan", GUANO), stated=0xFFFFFFFF)
    content = path.read_bytes().replace(b"RIFF", b"RF64", 1)
    ds64 = chunk(b"ds64", struct.pack("<QQQI", len(content), 32000, 16000, 0))
    path.write_bytes(content[:12] + ds64 + content[12:])
    assert recorded_at(path) == "2024-05-01T05:30:00+02:00"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20240501_053000.WAV", "2024-05-01T05:30:00"),  # AudioMoth
        ("20240501_053000T.WAV", "2024-05-01T05:30:00"),  # AudioMoth, triggered
        ("PREFIX_20240501_053000.wav", "2024-05-01T05:30:00"),
        ("S4A01234_20240501_053000.wav", "2024-05-01T05:30:00"),  # Song Meter SM4
        ("SMM01234_20240501_053000_001.flac", "2024-05-01T05:30:00"),
        ("SITE_0+1_20240501$053000.wav", "2024-05-01T05:30:00"),  # Song Meter SM3
        ("SITE_20240501_$053000.wav", None),
        ("20240501T053000Z.flac", "2024-05-01T05:30:00+00:00"),
        ("site_20240501T053000+0200_REC.flac", "2024-05-01T05:30:00+02:00"),
        ("site 2024-05-01 05-30-00.mp3", "2024-05-01T05:30:00"),
        ("2024-05-01T05:30:00+10:00.ogg", "2024-05-01T05:30:00+10:00"),
        ("2024-05-01T05:30:00.250+1000.ogg", "2024-05-01T05:30:00.250000+10:00"),
        ("20240501_053000+9900.wav", None),
        ("20240501_053000+9900_20240502_053000.wav", "2024-05-02T05:30:00"),
        ("99991231_235959.9.wav", "9999-12-31T23:59:59"),
        ("20240501_053000_20240502_063000.wav", "2024-05-01T05:30:00"),
        ("FACADE01.wav", None),
        ("5AFF7A00.WAV", "2018-05-19T01:12:32+00:00"),  # AudioMoth, Unix time
        ("5aff7a00.wav", "2018-05-19T01:12:32+00:00"),
        ("5AFF7A00.flac", None),
        ("DEADBEEF.WAV", None),
        ("20240501.WAV", None),
        ("20241301_053000.wav", None),
        ("20240501_253000.wav", None),
        ("120240501_053000.wav", None),
        ("20240501_0530001.wav", None),
        ("99999999_20240501_053000.wav", "2024-05-01T05:30:00"),
        ("dog.wav", None),
        ("", None),
    ],
)
def test_the_time_is_read_from_file_names(name, expected):
    found = from_name(name)
    assert (found and found.isoformat()) == expected


def test_times_of_file_names_have_the_given_zone_or_none(tmp_path):
    path = wav(tmp_path / "20240701_053000.WAV")
    assert recorded_at(path) == "2024-07-01T05:30:00"
    assert recorded_at(path, zone=parse_timezone("Europe/Berlin")) == "2024-07-01T05:30:00+02:00"
    assert recorded_at(path, zone=parse_timezone("utc-3:30")) == "2024-07-01T05:30:00-03:30"
    aware = wav(tmp_path / "aware.wav", chunk(b"guan", GUANO))
    assert recorded_at(aware, zone=parse_timezone("UTC")) == "2024-05-01T05:30:00+02:00"
    assert recorded_at(path, parse_start_time("2020-01-02 03:04")) == "2020-01-02T03:04:00"
    assert recorded_at(path, parse_start_time("none")) is recorded_at(path, None) is None
    assert recorded_at(tmp_path / "20240701_053000_gone.wav") == "2024-07-01T05:30:00"
    with open(aware, "rb") as file:
        assert recorded_at(file) == "2024-05-01T05:30:00+02:00"
    remote = SimpleNamespace(name="s3://bucket/20240701_053000.WAV", read=None)
    assert recorded_at(remote) == "2024-07-01T05:30:00"
    assert recorded_at(aware.read_bytes()) == "2024-05-01T05:30:00+02:00"
    for source in (b"RIFF", b"", b"20240701_053000.wav", np.zeros(9), [0.0], {"array": [0.0]}, None):
        assert recorded_at(source) is None


@pytest.mark.parametrize("value", ["yesterday", "2024-05-01", "20240501", "05:30", "", 5, "2024-05-01T25:00"])
def test_an_invalid_start_time_is_refused(value):
    with pytest.raises(UsageError, match="expected auto, none or a time such as 2024-05-01T05:30:00"):
        parse_start_time(value)


@pytest.mark.parametrize("value", ["Berlin", "", "+25:00", "../../etc/passwd", "/etc/passwd", 2, "Europe"])
def test_an_invalid_time_zone_is_refused(value):
    with pytest.raises(UsageError, match="expected a time zone such as Europe/Berlin, UTC or \\+02:00"):
        parse_timezone(value)


def test_results_have_the_times_of_their_recordings_on_request(tmp_path, resources):
    paths = [wav(tmp_path / "20240501_053000.WAV"), resources / "misc_crow.flac"]
    tagger = AudioTagger()
    assert [result.recorded_at for result in tagger.tag(paths)] == [None, None]
    found = list(tagger.tag(paths, start_time="auto", timezone="+02:00"))
    assert [result.recorded_at for result in found] == ["2024-05-01T05:30:00+02:00", None]
    (result,) = tagger.timelines(paths[:1], start_time=datetime(2024, 5, 1, 5) + timedelta(minutes=1))
    assert result.recorded_at == "2024-05-01T05:01:00" and recording_start(paths[1]) is None
    with pytest.raises(UsageError, match="start_time as well"):
        list(tagger.tag(paths, timezone="UTC"))
