# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Splits audio files into chunks, and reads the waveform of a chunk, which is always bit-identical.

- Uncompressed and FLAC files are seekable, so only the chunk is read and resampled, with 0.1 s on both sides for the
  resampling filter. It differs from resampling the complete file in the last bit (up to 1.5e-7 of full scale).
- Other formats (MP3, Ogg, those of PyAV) give different samples after seeking, so they are decoded from the start. A
  reader decodes a file only once if its chunks are read in order.
"""

import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from ...audio import (
    SAMPLING_RATE,
    UNKNOWN_FRAMES,
    AudioError,
    describe,
    read_audio,
    read_blocks,
    sound_file,
    walk_audio,
)
from ...audio_inputs import MAX_ARRAY_CHANNELS
from ...messages import one_line
from .store import Chunk

MIN_SAMPLES = 2400  # 0.15 s, one patch
CONTEXT_SAMPLES = 1600  # at 16 kHz, on both sides: more than the length of the resampling filter
SEEKABLE_FORMATS = frozenset("WAV WAVEX RF64 W64 AIFF AU CAF FLAC".split())
SEEKABLE_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")

AudioSource = str | os.PathLike | Sequence[str | os.PathLike]


class AudioFiles(NamedTuple):
    """
    Audio files to split into chunks.

    Attributes:
        root: The folder that `paths` are relative to.
        paths: Files, with `/`, without duplicates.
        skipped: Files that cannot be used, with the reason.
    """

    root: Path
    paths: list[str]
    skipped: dict[str, str]


class Cut(NamedTuple):
    """Chunks ordered by file and time, and files that cannot be used, with the reason."""

    chunks: list[Chunk]
    skipped: dict[str, str]


def find_audio(audio: AudioSource) -> AudioFiles:
    """
    The audio files of a folder, or of a list of files and folders, in the order of the list and sorted by name.

    Folders are searched recursively for files with the extensions of audio files, which are not hidden; links to
    folders are followed. Listed files may have any extension.

    Raises:
        ValueError: if there are none, or a single path does not exist.
    """
    sources = [audio] if isinstance(audio, str | os.PathLike) else list(audio)
    places = [os.path.abspath(os.fspath(source)) for source in sources]
    if len(places) == 1 and not os.path.exists(places[0]):
        raise ValueError(f"{describe(sources[0])}: there is no such file or folder.")
    problems: list[OSError] = []
    files = dict.fromkeys(
        file for place in places for file in (walk_audio(place, problems) if os.path.isdir(place) else [place])
    )
    if not files and not problems:
        raise ValueError(f"No audio files in {', '.join(map(describe, sources)) or 'an empty list'}.")
    root = os.path.commonpath([place if os.path.isdir(place) else os.path.dirname(place) for place in places])
    found = AudioFiles(Path(root), [], {})
    for file in files:
        path = Path(file).relative_to(root).as_posix()
        try:
            path.encode()
            found.paths.append(path)
        except UnicodeEncodeError:
            found.skipped[describe(path)] = "its name is not UTF-8; rename it"
    for problem in problems:
        folder = describe(os.path.relpath(problem.filename, root))
        found.skipped[folder] = f"a folder that cannot be listed: {problem.strerror}"
    return found


def cut_files(
    files: AudioFiles, chunk_samples: int, *, on_file: Callable[[str, str | None], object] = lambda path, reason: None
) -> Cut:
    """
    Splits all files into chunks, except those that cannot be read.

    Args:
        on_file: Called with each file, and the reason if it is skipped.

    Raises:
        ValueError: if no file can be used, with the reason of the first.
    """

    def try_cut(path: str) -> list[Chunk] | str:
        try:
            return cut_file(files.root, path, chunk_samples)
        except (AudioError, OSError) as error:
            text = one_line(error)
            return text.removeprefix(f"{describe(files.root / path)}: ").removeprefix(f"{describe(path)}: ")

    cut = Cut([], dict(files.skipped))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # decoding releases the GIL
        for first in range(0, len(files.paths), 1024):  # the pool would submit all tasks at once
            paths = files.paths[first : first + 1024]
            for path, result in zip(paths, pool.map(try_cut, paths), strict=True):
                reason = result if isinstance(result, str) else None
                if isinstance(result, str):
                    cut.skipped[path] = result
                else:
                    cut.chunks.extend(result)
                on_file(path, reason)
    if not cut.chunks:
        path, reason = next(iter(cut.skipped.items()))
        raise ValueError(f"None of {len(cut.skipped)} audio files can be used; the first, {path}: {reason}.")
    return cut


def cut_file(root: str | os.PathLike, path: str, chunk_samples: int) -> list[Chunk]:
    """
    The chunks of a file: pieces of `chunk_samples`, and a last piece if it is at least half as long. A file that is
    shorter than this is one chunk.

    Raises:
        AudioError: if any part of the file cannot be read, or if it is shorter than one patch (0.15 s).
    """
    chunks: list[Chunk] = []
    for piece in _pieces(Path(root, path), chunk_samples):
        if chunks and 2 * len(piece) < chunk_samples:
            continue
        chunks.append(Chunk(path, len(chunks) * chunk_samples, len(piece), _crc32(piece)))
    if chunks[0].num_samples < MIN_SAMPLES:
        raise _too_short(path)
    return chunks


@dataclass
class _Stream:
    """A file that is decoded in pieces; it must not be shared with other processes, which would move its position."""

    path: str
    process: int
    blocks: Iterator[np.ndarray]
    next_number: int = 0


class ChunkReader:
    """
    Reads the waveforms of chunks.

    Attributes:
        root: The folder that the chunks' paths are relative to.
        chunk_samples: `Augmentation.chunk_samples`.
    """

    def __init__(self, root: str | os.PathLike, chunk_samples: int) -> None:
        self.root = Path(root)
        self.chunk_samples = chunk_samples
        self._stream: _Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stream": None}

    def read(self, chunk: Chunk) -> np.ndarray:
        """
        The waveform of a chunk.

        Returns:
            float32 of shape `(num_samples,)` at 16 kHz, bit-identical to the original chunk.

        Raises:
            AudioError: if the file does not exist, cannot be read, or has different samples.
        """
        file = self.root / chunk.path
        if is_seekable(file):
            waveform = _read_part(file, chunk.start, chunk.num_samples)
        else:
            waveform = self._decode_to(chunk)[: chunk.num_samples]
        if len(waveform) != chunk.num_samples or _crc32(waveform) != chunk.crc32:
            raise AudioError(
                f"{describe(file)}: not the audio of the store (at {chunk.start / SAMPLING_RATE:g} s): it"
                " was changed since, or another version of libsndfile or soxr decodes it"
            )
        return waveform

    def _decode_to(self, chunk: Chunk) -> np.ndarray:
        """The chunk's piece of a file that is not seekable; empty if the file ends before it."""
        number, stream = chunk.start // self.chunk_samples, self._stream
        if stream is None or (stream.path, stream.process) != (chunk.path, os.getpid()) or number < stream.next_number:
            stream = _Stream(chunk.path, os.getpid(), _blocks(self.root / chunk.path, self.chunk_samples))
        self._stream = stream
        piece = next(islice(stream.blocks, number - stream.next_number, None), np.empty(0, np.float32))
        stream.next_number = number + 1
        return piece


def is_seekable(file: str | os.PathLike) -> bool:
    """Whether a file gives the same samples after seeking as when read from its start."""
    if not os.path.isfile(file):  # opening a FIFO would wait for a writer
        return False
    try:
        with sound_file(file) as sound:
            return (
                sound.format in SEEKABLE_FORMATS
                and sound.subtype.startswith(SEEKABLE_SUBTYPES)
                and sound.channels <= MAX_ARRAY_CHANNELS
                and sound.frames < UNKNOWN_FRAMES
            )
    except (soundfile.SoundFileError, OSError):  # reading it will report the reason
        return False


def _pieces(file: Path, chunk_samples: int) -> Iterator[np.ndarray]:
    """A file in pieces of `chunk_samples`; the last may be shorter. At least one piece, and none is empty."""
    if not is_seekable(file):
        yield from _blocks(file, chunk_samples)
        return
    for start in count(0, chunk_samples):
        piece = _read_part(file, start, chunk_samples)
        if len(piece):
            yield piece
        if len(piece) < chunk_samples:
            return


def _blocks(file: Path, chunk_samples: int) -> Iterator[np.ndarray]:
    return read_blocks(file, block_s=chunk_samples / SAMPLING_RATE)


def _read_part(file: Path, start: int, num_samples: int) -> np.ndarray:
    """
    Samples `[start, start + num_samples)` at 16 kHz of a seekable file, or fewer at its end.

    Reading starts where a frame of the file and a sample at 16 kHz coincide, so that the phase of the resampling filter
    is the same as for the complete file.
    """
    with sound_file(file) as sound:
        rate = sound.samplerate
        divisor = math.gcd(rate, SAMPLING_RATE)
        unit_samples, unit_frames = SAMPLING_RATE // divisor, rate // divisor  # of the same duration
        unit = max(0, start - CONTEXT_SAMPLES) // unit_samples
        first, stop = unit * unit_frames, -(-(start + num_samples + CONTEXT_SAMPLES) * rate // SAMPLING_RATE)
        stop = min(stop, sound.frames)
        if first >= stop and start:
            return np.empty(0, np.float32)
        try:
            sound.seek(min(first, sound.frames))
            frames = sound.read(stop - first, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioError(f"{describe(file)}: damaged after {first / rate:.1f} s ({error})") from error
    if len(frames) != stop - first:
        raise AudioError(f"{describe(file)}: truncated: {(stop - first - len(frames)) / rate:.1f} s are missing")
    if len(frames) <= MAX_ARRAY_CHANNELS:  # only at the end of a file, since the context is longer
        raise _too_short(file)
    try:
        samples = read_audio({"array": frames.T, "sampling_rate": rate})
    except AudioError as error:  # its message refers to an array
        raise AudioError(f"{describe(file)}: {str(error).partition(': ')[2]}") from error
    skipped = start - unit * unit_samples
    return samples[skipped : skipped + num_samples]


def _too_short(file: str | os.PathLike) -> AudioError:
    return AudioError(f"{describe(file)}: shorter than {MIN_SAMPLES / SAMPLING_RATE:g} s, one patch of the model")


def _crc32(waveform: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(waveform, "<f4").data)
