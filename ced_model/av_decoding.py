# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Decodes files that libsndfile cannot open with PyAV (FFmpeg), aligned with their timestamps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from .audio_chunks import AudioError, Chunk, Warn, checked_rate, damaged, reason_of, to_float, warn_if_cut
from .timestamps import MAX_UNSTATED_GAP_S, Frame, on_time

AV_TIME_BASE = 1_000_000
DEFAULT_STREAM = 1  # AV_DISPOSITION_DEFAULT
ZERO_BASED = frozenset(("mov", "matroska", "flv", "asf", "avi"))  # formats whose recordings start at timestamp 0
# Formats without a length in the header. FFmpeg estimates it from the file size and the bit rate of the first frames,
# or from timestamps.
UNSTATED = frozenset(
    "aac ac3 ac4 amr amrnb amrwb aptx aptx_hd dts dtshd eac3 g722 g723_1 g726 g729 gsm loas mlp mp3 mpeg mpegts sbc "
    "truehd".split()
)

INSTALL_AV = "pip install av"


def av_chunks(file: BinaryIO, name: str, reason: str, warn: Warn, *, has_timestamps: bool = True) -> Iterator[Chunk]:
    """Decodes the default audio stream with PyAV. `reason` is why libsndfile cannot, for messages."""
    with av_container(file, name, reason) as container:
        stream = av_stream(container)
        streams = container.streams.audio
        if len(streams) > 1:
            warn("%s: has %d audio streams; only number %d is read", name, len(streams), streams.index(stream) + 1)
        if not has_timestamps or _format_names(container) & UNSTATED - {"mpeg", "mpegts"}:
            yield from ((samples, rate) for _, samples, rate in _av_frames(container, stream, name))
            return
        seconds, ignored = 0.0, list[str]()
        stated_s = stated_end_s(container, stream, of_all=True)
        for samples, rate in on_time(_av_frames(container, stream, name), stated_s, ignored.append):
            seconds += samples.shape[1] / rate
            yield samples, rate
        if ignored:
            warn("%s: %s", name, ignored[0])
        else:
            warn_if_cut(name, seconds, stated_end_s(container, stream) or 0.0, warn)


def _av_frames(container: Any, stream: Any, name: str) -> Iterator[Frame]:
    origin_s, seconds = _origin_s(container), 0.0
    try:
        for frame in container.decode(stream):
            samples = frame.to_ndarray()
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            rate = checked_rate(frame.sample_rate, name)
            seconds += samples.shape[1] / rate
            yield None if frame.time is None else frame.time - origin_s, to_float(samples, name), rate
    except AudioError:
        raise
    except Exception as error:  # PyAV raises many built-in types, depending on FFmpeg's error code
        raise damaged(name, seconds, error) from error


@contextmanager
def av_container(file: BinaryIO, name: str, reason: str) -> Iterator[Any]:
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"{name}: libsndfile cannot read it ({reason}); for m4a, mp4, webm and more: {INSTALL_AV}"
        ) from error
    file.seek(0)
    try:
        # without the whitelist, FFmpeg would fetch the files of a playlist
        container = _av_open(av, file)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(
            f"{name}: neither libsndfile ({reason}) nor FFmpeg ({reason_of(error)}) can read it"
        ) from error
    with container:
        if not container.streams.audio:
            raise AudioError(f"{name}: holds no audio: the file has no audio stream")
        yield container


def _av_open(av: Any, file: BinaryIO) -> Any:
    if os.name == "posix":
        # by descriptor: when FFmpeg calls back into Python, exceptions and KeyboardInterrupt get lost
        with suppress(av.error.ProtocolNotFoundError):  # FFmpeg before 6
            options = {"protocol_whitelist": "fd", "fd": str(file.fileno())}
            return av.open("fd:", metadata_errors="replace", options=options)
    return av.open(file, metadata_errors="replace", options={"protocol_whitelist": "none"})


def av_stream(container: Any) -> Any:
    """The audio stream marked as default, else the first."""
    streams = container.streams.audio
    return next((stream for stream in streams if int(stream.disposition) & DEFAULT_STREAM), streams[0])


def _format_names(container: Any) -> set[str]:
    return set(container.format.name.split(","))


def _origin_s(container: Any) -> float:
    """The timestamp of the recording's start."""
    start_s = (container.start_time or 0) / AV_TIME_BASE
    names = _format_names(container)
    is_late = start_s <= MAX_UNSTATED_GAP_S or (
        "matroska" in names and start_s * AV_TIME_BASE < (container.duration or 0)
    )
    return 0.0 if start_s > 0 and names & ZERO_BASED and is_late else start_s


def stated_end_s(container: Any, stream: Any, of_all: bool = False) -> float | None:
    """
    The end of the audio stream (or of all streams) in seconds from the recording's start, according to the header; None
    if FFmpeg estimated it.
    """
    names = _format_names(container)
    if names & UNSTATED or _is_estimated(container, names):
        return None
    if stream.duration is not None and not of_all:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - _origin_s(container)
    if not container.duration or (len(container.streams) > 1 and not of_all):  # video may be longer than audio
        return None
    start = 0 if "matroska" in names else container.start_time or 0  # Matroska states the end, others the length
    return (start + container.duration) / AV_TIME_BASE - _origin_s(container)


def _is_estimated(container: Any, names: set[str]) -> bool:
    """Whether FFmpeg estimated the duration from size and bit rate. (PyAV does not expose FFmpeg's own flag for it.)"""
    if names & {"matroska", "flv"}:  # these have a duration for the file, not for streams
        return any(stream.duration is not None for stream in container.streams)
    bit_rate = sum(getattr(stream, "bit_rate", None) or 0 for stream in container.streams)
    # the estimate uses the size without the header; QuickTime files often consist almost entirely of samples
    tolerance = 1e-4 if "mov" in names else 0.05
    return bit_rate > 0 and -1e-4 < container.bit_rate / bit_rate - 1 < tolerance
