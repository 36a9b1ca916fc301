# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Cuts recordings into files, with the sampling rate and the channels of the recording."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from .audio import decoded_chunks, sound_file
from .messages import OptionError, RunError, one_line, printable
from .output import new_file

# Sample types that each format keeps, and the one for all others.
SUBTYPES = {
    "wav": ("PCM_16", ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    "flac": ("PCM_16", ("PCM_S8", "PCM_24")),
}
FINER = ("PCM_32", "FLOAT", "DOUBLE")  # than 24 bits, which is what FLAC has for them
MAX_NAME = 100  # characters


class Part(NamedTuple):
    """Samples `(frames, channels)` as float64, sampling rate in Hz, and libsndfile's name of the sample type."""

    samples: np.ndarray
    sampling_rate: float
    subtype: str


def cut_parts(path: str, spans: Sequence[tuple[float, float]]) -> Iterator[Part]:
    """
    Yields parts of a recording, given by start and end in seconds, in this order, up to the end of the recording.

    Raises:
        AudioError, OSError: if it cannot be read.
    """
    try:
        with sound_file(path) as sound:
            rate = sound.samplerate
            sound.seek(0)
            parts = [(round(start_s * rate), round((end_s - start_s) * rate)) for start_s, end_s in spans]
            for first, count in parts:
                sound.seek(min(first, sound.frames))
                yield Part(sound.read(count, dtype="float64", always_2d=True), rate, sound.subtype)
        return
    except soundfile.SoundFileError:
        pass
    # Formats that libsndfile does not support are decoded once, from the beginning.
    yield from _cut_while_decoding(path, spans)


def _cut_while_decoding(path: str, spans: Sequence[tuple[float, float]]) -> Iterator[Part]:
    pieces: list[list[np.ndarray]] = [[] for _ in spans]
    position_s, rate = 0.0, 0.0
    for samples, rate in decoded_chunks(path):
        end_s = position_s + samples.shape[1] / rate
        for piece, (from_s, to_s) in zip(pieces, spans, strict=True):
            if from_s < end_s and position_s < to_s:
                first, last = (round((bound - position_s) * rate) for bound in (from_s, to_s))
                piece.append(samples[:, max(0, first) : max(0, last)].T.astype(np.float64))
        position_s = end_s
        if position_s > max(to_s for _, to_s in spans):
            break
    for piece in pieces:
        yield Part(np.concatenate(piece) if piece else np.zeros((0, 1)), rate, "")


def write_part(part: Part, path: str | os.PathLike[str], format: str) -> None:
    """
    Writes a part as WAV or FLAC, with the sample type of the recording if the format supports it, else 16 bits.

    Raises:
        RunError: if it cannot be written in this format.
    """
    usual, kept = SUBTYPES[format]
    subtype = part.subtype if part.subtype in kept else "PCM_24" if part.subtype in FINER else usual
    try:
        with new_file(path, replace=True) as file:
            soundfile.write(file, part.samples, round(part.sampling_rate), subtype, format=format.upper())
    except soundfile.SoundFileError as error:
        raise RunError(f"{path}: cannot be written as {format}: {one_line(error)}") from error


def check_format(format: str) -> None:
    if format not in SUBTYPES:
        raise OptionError("format", format, " or ".join(SUBTYPES))


def file_name(text: str) -> str:
    """A text made fit for file names on any system."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", printable(text)).strip(" .")[:MAX_NAME] or "_"


def part_name(recording: str, start_s: float, format: str) -> str:
    """File name of a part: the name of the recording and the start of the part."""
    return f"{file_name(Path(recording).stem)}_{start_s:.2f}.{format}"
