# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio in containers (through PyAV) is aligned with its timestamps; estimated durations are ignored."""

import io
import logging
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest

from ced_model.audio import AudioError, duration_s, read_audio
from ced_model.timestamps import on_time

RATE = 16000
FRAME = 320


def container(
    format: str,
    codec: str,
    shift_s: Callable[[float], float] = lambda time: 0.0,
    *,
    seconds: float = 3,
    video_s: float = 0,
    level: float = 0.3,
    tones: tuple[int, ...] = (440,),
    default: int = 0,
) -> bytes:
    """A file with one stream per tone, with shifted timestamps, and a black video."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as output:
        if video_s:
            video = output.add_stream("mpeg4", rate=5)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        streams = [output.add_stream(codec, rate=RATE, layout="mono") for _ in tones]
        if len(tones) > 1:
            for number, stream in enumerate(streams):
                stream.disposition = av.stream.Disposition.default if number == default else 0
        for _ in range(round(5 * video_s)):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            output.mux(video.encode(picture))
        if video_s:
            output.mux(video.encode(None))
        for start in range(0, round(seconds * RATE), FRAME):
            for stream, hertz in zip(streams, tones, strict=True):
                times = np.arange(start, start + FRAME) / RATE
                samples = (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)[np.newaxis]
                is_integer = codec in ("flac", "pcm_s16le")
                samples = (samples * 32767).astype(np.int16) if is_integer else samples
                frame = av.AudioFrame.from_ndarray(samples, "s16" if is_integer else "fltp", "mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = start + round(shift_s(start / RATE) * RATE)
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    return file.getvalue()


def sounding(waveform: np.ndarray) -> list[tuple[float, float]]:
    """Start and end of each sound in seconds."""
    peaks = np.array([np.abs(part).max() for part in np.array_split(waveform, len(waveform) // 160)]) > 0.05
    edges = np.flatnonzero(np.diff(np.concatenate([[0], peaks, [0]])))
    return [(start / 100, end / 100) for start, end in zip(edges[::2], edges[1::2], strict=True)]


LATE = [("mp4", "aac"), ("mov", "pcm_s16le"), ("matroska", "flac"), ("matroska", "aac"), ("flv", "aac")]


@pytest.mark.parametrize(
    ("format", "codec", "video_s"),
    [(format, codec, 0) for format, codec in LATE] + [("mp4", "aac", 9), ("matroska", "aac", 9), ("mpegts", "aac", 9)],
)
def test_audio_that_starts_late_has_silence_before_it(format: str, codec: str, video_s: float, caplog):
    data = container(format, codec, lambda time: 5.0, video_s=video_s)
    ((start, end),) = sounding(read_audio(data))
    assert (start, end) == pytest.approx((5.0, 8.0), abs=0.1)
    stated = duration_s(data)
    assert stated is None or stated == pytest.approx(8.0, abs=0.1)
    assert not caplog.records


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp4", "aac"), ("matroska", "pcm_s16le"), ("matroska", "aac"), ("flv", "aac"), ("mpegts", "aac")],
)
def test_a_gap_becomes_silence(format: str, codec: str, caplog):
    data = container(format, codec, lambda time: 2.0 if time >= 1 else 0.0)
    first, second = sounding(read_audio(data))
    assert (*first, *second) == pytest.approx((0, 1, 3, 5), abs=0.1)
    assert not caplog.records


@pytest.mark.parametrize("format", ["mp4", "matroska", "flv"])
def test_small_jitter_and_encoder_delay_change_no_sample(format: str, caplog):
    jitter = np.random.default_rng(0).uniform(0, 0.004, 1000)
    plain = read_audio(container(format, "aac"))
    result = read_audio(container(format, "aac", lambda time: time and float(jitter[round(time * RATE / FRAME)])))
    np.testing.assert_array_equal(result, plain)
    assert len(plain) == pytest.approx(3 * RATE, abs=2200)
    assert not caplog.records


def test_overlaps_are_dropped_and_concatenated_files_are_not(caplog):
    first, later = container("mpegts", "aac"), container("mpegts", "aac", lambda time: 2.0)
    assert len(read_audio(first + later)) == pytest.approx(5 * RATE, abs=3000)
    assert len(read_audio(first + first)) == pytest.approx(6 * RATE, abs=3000)
    assert not caplog.records


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
def test_a_damaged_timestamp_does_not_insert_hours_of_silence(format: str, caplog):
    data = container(format, "aac", lambda time: 5 * 3600.0 if time >= 1 else 0.0)
    assert len(read_audio(data)) == pytest.approx(3 * RATE, abs=3000)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("<bytes>: a timestamp jumps by 18000 s at 1.")
    assert message.endswith(" s: damaged, and ignored")


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_of_several_audio_streams_is_read_with_a_warning(default: int, caplog):
    data = container("matroska", "pcm_s16le", tones=(440, 1000), default=default)
    spectrum = np.abs(np.fft.rfft(read_audio(data)[:RATE]))
    assert spectrum.argmax() == (440, 1000)[default]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"<bytes>: has 2 audio streams; only number {default + 1} is read"


# Timestamps alone: frames of 0.5 s at 1 kHz whose samples count up


def joined(starts: list[float | None], stated_s: float | None = None) -> tuple[np.ndarray, list[str]]:
    samples = np.arange(1, 500 * len(starts) + 1, dtype=np.float32).reshape(len(starts), 1, 500)
    lines: list[str] = []
    frames = ((start, part, 1000.0) for start, part in zip(starts, samples, strict=True))
    return np.concatenate([part[0] for part, _ in on_time(frames, stated_s, lines.append)]), lines


def counted(*ranges: tuple[int, int] | int) -> np.ndarray:
    """Samples `[start, end)` of the input, or a number of zeros."""
    parts = [np.zeros(item) if isinstance(item, int) else np.arange(item[0] + 1, item[1] + 1) for item in ranges]
    return np.concatenate(parts)


@pytest.mark.parametrize(
    ("starts", "stated_s", "expected"),
    [
        ([0, 0.5, 1.0, 1.5], None, [(0, 2000)]),
        ([None, None, None], None, [(0, 1500)]),
        ([0, 0.52, 0.97, 1.55], None, [(0, 2000)]),  # jitter
        ([3.0, 3.5], None, [3000, (0, 1000)]),
        ([0, 0.5, 3.25, 3.75], None, [(0, 1000), 2250, (1000, 2000)]),
        ([0, 0.5, 3.25], None, [(0, 1000), 2250, (1000, 1500)]),
        ([0, 0.56, 1.12, 1.68, 2.24], None, [(0, 1000), 120, (1000, 2000), 120, (2000, 2500)]),  # small gaps add up
        ([0, 0.5, 0.7, 1.2, 1.7], None, [(0, 1000), (1300, 2500)]),  # 0.3 s overlap
        ([0, 0.5, 1.0, 0.5, 1.0, 1.5, 2.0], None, [(0, 1500), (2500, 3500)]),  # two frames repeated
        ([0, 0.5, 5000, 1.5, 2.0], None, [(0, 2500)]),  # one damaged timestamp
        ([0, 0.5, -900, 1.5, 2.0], None, [(0, 2500)]),
        ([0, 0.5, 1.0, 0, 0.5, 1.0], None, [(0, 3000)]),  # concatenated
        ([90, 90.5, 91, 20, 20.5], 200, [90000, (0, 2500)]),  # a new clock
        ([0, 0.5, 700.0, 700.5], 701, [(0, 1000), 699000, (1000, 2000)]),
        ([0, 0.5, 700.0, 700.5], 60, [(0, 2000)]),
        ([0, 0.5, 700.0, 700.5], None, [(0, 2000)]),
        ([0, 0.5, 4000.0, 4000.5], 4001, [(0, 2000)]),
    ],
)
def test_frames_are_aligned_with_their_timestamps(starts, stated_s, expected):
    result, lines = joined(starts, stated_s)
    np.testing.assert_array_equal(result, counted(*expected))
    is_ignored = max(filter(None, starts), default=0) >= 700 and len(result) == 2000
    assert len(lines) == is_ignored


def test_the_frame_before_damage_is_yielded():
    def frames():
        yield 0.0, np.ones((1, 500), np.float32), 1000.0
        raise AudioError("damaged")

    received = []
    with pytest.raises(AudioError):
        for samples, _ in on_time(frames(), None, print):
            received.append(samples)
    assert len(received) == 1


# Durations


def loud_after_silence(format: str, codec: str) -> bytes:
    """Because of the bit rate at its start, FFmpeg's estimate of the duration is far too long."""
    silence = container(format, codec, seconds=0.5, level=0.0)
    return silence + b"".join([container(format, codec, seconds=5)] * 2)


def test_an_estimated_duration_is_not_used(caplog):
    data = loud_after_silence("adts", "aac")
    with av.open(io.BytesIO(data)) as file:
        assert file.duration > 12e6
    assert duration_s(data) is None
    assert len(read_audio(data)) == pytest.approx(10.5 * RATE, rel=0.05)
    assert not caplog.records


def test_matroska_without_a_duration_has_none(caplog):
    data = container("matroska", "pcm_s16le")
    live = data.replace(b"\x44\x89\x88", b"\xec\x89\x00")  # Duration → Void, as from a live recorder
    assert duration_s(data) == 3.0 and duration_s(live) is None
    assert len(read_audio(live)) == 3 * RATE
    assert not caplog.records
