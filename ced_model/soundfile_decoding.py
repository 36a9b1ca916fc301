# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Decodes files with libsndfile, and detects wrong headers."""

import os
import re
from collections.abc import Generator
from contextlib import nullcontext, suppress
from typing import Any, BinaryIO

import numpy as np
import soundfile

from .audio_chunks import Chunk, Warn, checked_rate, chunk_frames, damaged
from .c_stderr import quiet_c_stderr
from .wav_headers import AudioData, CorrectedSound, find_audio_data

UNKNOWN_FRAMES = 2**62  # libsndfile returns 2**63 - 1 for streams of unknown length
UNREAD_TOLERANCE = 8192  # bytes after the last MP3 or Ogg frame that may be tags


def open_sound(file: BinaryIO) -> tuple[Any, AudioData | None]:
    """
    Opens the decoder of a file, and finds its audio data if it is a WAV file or similar.

    Raises:
        soundfile.SoundFileError: if libsndfile cannot open it.
    """
    data = find_audio_data(file)
    if data is not None and data.needs_correction:
        with suppress(soundfile.SoundFileError):
            return CorrectedSound(file, data), data
    return _open_soundfile(file), data


def _open_soundfile(file: BinaryIO) -> soundfile.SoundFile:
    file.seek(0)
    with quiet_c_stderr():
        # on Windows, libsndfile cannot use descriptors of Python's C runtime
        return soundfile.SoundFile(file.fileno() if os.name == "posix" else file, closefd=False)


def warn_of_header(name: str, data: AudioData, sound: Any, warn: Warn) -> None:
    if data.stated is not None and data.is_understated:
        seconds = sound.frames / sound.samplerate
        stated_s = seconds * data.stated / data.size
        warn("%s: wrong header (%.1f s); all %.1f s in the file are read", name, stated_s, seconds)
    if data.is_followed:
        warn("%s: another recording follows its end, which is not read", name)


def soundfile_chunks(sound: Any, name: str) -> Generator[Chunk, None, int]:
    """Yields chunks, and returns the number of frames."""
    rate = checked_rate(sound.samplerate, name)
    size = chunk_frames(rate, sound.channels)
    # soundfile seeks to the current position after each read of a seekable file, which alters samples of MP3 files
    sound.seekable = lambda: False
    frames = 0
    while True:
        try:
            with quiet_c_stderr() if sound.format == "MP3" else nullcontext():
                pcm = sound.read(size, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise damaged(name, frames / rate, error) from error
        if not len(pcm):
            return frames
        frames += len(pcm)
        yield pcm.T, rate


def promised_frames(sound: Any, data: AudioData | None, file: BinaryIO, frames: int) -> float:
    """The number of frames according to the header, or else `frames`, the number of frames read."""
    if sound.format == "OGG" and _ogg_ends_within_page(file):
        return np.inf
    if sound.frames >= UNKNOWN_FRAMES or (sound.format == "MP3" and not mp3_states_length(file)):
        return frames
    if data is not None:  # libsndfile limits `frames` to the existing data
        return frames * max(data.stated or 0, data.size) / max(data.size, 1)
    return sound.frames


def mp3_states_length(file: BinaryIO) -> bool:
    """Whether the first MPEG frame, after an ID3v2 tag, is a Xing, Info or VBRI header."""
    file.seek(0)
    tag = file.read(10)
    file.seek(10 + int("".join(f"{byte & 0x7F:07b}" for byte in tag[6:]), 2) if tag[:3] == b"ID3" else 0)
    return re.search(rb"Xing|Info|VBRI", file.read(4096)) is not None


def _ogg_ends_within_page(file: BinaryIO) -> bool:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))  # a page has at most 65,307 bytes
    tail = file.read(2**16)
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    return len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def unread_bytes(format: str, file: BinaryIO) -> int:
    """
    Number of bytes, other than tags, that libsndfile did not read: it stops at the length that it expects (in MP3 files
    without a length header, estimated from the bit rate), and after the first of several concatenated files.
    """
    position = file.tell()
    unread = file.seek(0, os.SEEK_END) - position
    if format not in ("MP3", "OGG") or unread <= UNREAD_TOLERANCE:
        return 0
    file.seek(-UNREAD_TOLERANCE, os.SEEK_END)
    return 0 if b"APETAGEX" in file.read(UNREAD_TOLERANCE) else unread
