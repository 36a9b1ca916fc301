# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Finds the audio data of WAV and similar files (RIFF, RF64, W64, AIFF, AU, CAF) if the size in the header is wrong.

The size is wrong in files of recorders that were interrupted (0), of programs that do not update it (too small), and in
files of more than 4 GB (overflow of 32 bits). libsndfile stops at this size. Here, the data extend to the end of the
file, unless metadata chunks or zeros follow the stated end.
"""

import os
import re
import struct
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile


class Layout(NamedTuple):
    """How the chunks of a container are stored: identifier, size, content, padding."""

    first: int  # position of the first chunk
    size: str  # format of the size field
    id_bytes: int = 4
    align: int = 2
    counts_header: bool = False  # whether a chunk's size includes its identifier and size field


W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
W64_ID_ENDINGS = (bytes.fromhex("28db04c10000"), bytes.fromhex("00c04f8edb8a"))
LAYOUTS = {
    b"RIFF": Layout(12, "<I"),
    b"RIFX": Layout(12, ">I"),
    b"RF64": Layout(12, "<I"),
    b"BW64": Layout(12, "<I"),
    b"FORM": Layout(12, ">I"),
    b"caff": Layout(8, ">q", align=1),
    b"riff": Layout(40, "<q", id_bytes=16, align=8, counts_header=True),
}
# Chunks that may follow the audio, recognized even if the file is truncated within them
METADATA = re.compile(
    rb"LIST|id3 |ID3 |bext|iXML|cue |smpl|inst|fact|PEAK|JUNK|junk|PAD |FLLR|acid|afsp|plst|adtl|labl|levl|_PMX|axml"
    rb"|guan|wamd|chna|cart|DISP|LGWV|minf|elm1|regn|umid|strc|SNDM|qlty|link|bmdt|slnt|list|NAME|AUTH|ANNO|COMT|MARK|INST|APPL"
    rb"|MIDI|AESD|SAXL|CHAN|\(c\) |info|uuid|free|mark|peak|ovvw|strg|midi|edct|chan|pakt"
)
TAGS = re.compile(rb"ID3[\2-\4]\0|TAG|APETAGEX")  # tags outside of chunks
AUDIO_IDS = (b"data", b"SSND", *LAYOUTS)

MAX_CHUNKS = 1000  # before or after the audio
MAX_FORMAT_BYTES = 4096
MAX_METADATA_BYTES = 2**20
MIN_REST = 256  # bytes after the stated end from which to warn
UNCOMPRESSED = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
BLOCKWISE = ("MS_ADPCM", "IMA_ADPCM")  # formats with independent blocks
PROBE_BYTES = 840  # a whole number of samples of 1 to 8 bytes
COPY_BYTES = 2**20
TAIL = 2**16  # bytes searched for metadata if the stated end is wrong
MAX_MATCHES = 100  # in the tail
OPEN_SIZES = (
    (0x7FFF0000, 0x80000000),
    (0xFFFF0000, 0xFFFFFFFF),
)  # of programs that write to a pipe, without knowing the size


@dataclass(frozen=True)
class AudioData:
    """
    The audio data of a file.

    Attributes:
        start: Position of the first byte.
        size: Actual number of bytes.
        stated: Number of bytes according to the header; None if it leaves the size open.
        is_followed: Whether another recording follows in the file.
        needs_correction: Whether libsndfile may read less or more than this, or refuse the file.
        make_header: Makes the header of a file of the same format with this number of bytes of audio.
        block: Bytes per block of compressed audio; 0 if unknown.
    """

    start: int
    size: int
    stated: int | None
    is_followed: bool
    needs_correction: bool
    make_header: Callable[[int], bytes]
    block: int = 0

    @property
    def is_understated(self) -> bool:
        return self.stated is not None and self.size > self.stated


def find_audio_data(file: BinaryIO) -> AudioData | None:
    """The audio data of a file; None for other formats and if the data cannot be located."""
    file.seek(0)
    head = file.read(40)
    end = file.seek(0, os.SEEK_END)
    if head[:4] in (b".snd", b"dns."):
        return _find_in_au(file, head, end)
    layout = LAYOUTS.get(head[:4])
    if layout is None or (head[:4] == b"riff" and not head.startswith(W64_RIFF)):
        return None
    return _find_in_chunks(file, head, layout, end)


def metadata_chunks(file: BinaryIO, wanted: Collection[bytes]) -> dict[bytes, bytes]:
    """The content of the first chunk with each identifier, before or after the audio; empty for other files."""
    file.seek(0)
    head = file.read(40)
    end = file.seek(0, os.SEEK_END)
    layout = LAYOUTS.get(head[:4])
    found: dict[bytes, bytes] = {}
    if layout is None:
        return found
    data = find_audio_data(file)
    behind = end if data is None else data.start + data.size
    for position in (layout.first, behind + -behind % layout.align, behind):
        for name, start, size in islice(_chunks(file, layout, position, end), MAX_CHUNKS):
            if name[:4] in wanted and 0 <= size <= MAX_METADATA_BYTES:
                found.setdefault(name[:4], _read_at(file, start, size))
            if data is not None and position == layout.first and start >= data.start:
                break  # the stated size of the audio may be wrong
    return found


def _find_in_au(file: BinaryIO, head: bytes, end: int) -> AudioData | None:
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 24:
        return None
    start, stated, *format = struct.unpack(f"{order}5I", head[4:24])
    if not 24 <= start <= end:
        return None

    def make_header(size: int) -> bytes:
        return head[:4] + struct.pack(f"{order}5I", 24, size, *format)

    return _measured(file, None, start, _unless_open(stated), end, make_header)


def _find_in_chunks(file: BinaryIO, head: bytes, layout: Layout, end: int) -> AudioData | None:
    format, place, size_64 = b"", None, None
    for name, start, size in islice(_chunks(file, layout, layout.first, end), MAX_CHUNKS):
        name = name[:4]
        if name in (b"fmt ", b"COMM", b"desc"):
            format = _read_at(file, start, min(size, MAX_FORMAT_BYTES))
        elif name == b"ds64" and size >= 16:
            size_64 = struct.unpack("<Q", _read_at(file, start + 8, 8).ljust(8, b"\0"))[0]
        elif name in (b"data", b"SSND") and place is None:
            place = start, size
        if format and place:
            break
    if not format or place is None:
        return None
    start, size = place
    stated: int | None = size
    if head[:4] in (b"RF64", b"BW64"):
        stated = size_64 or (0 if size >= OPEN_SIZES[1][0] else size)
    elif head[:4] == b"FORM":
        offset = struct.unpack(">I", _read_at(file, start, 4).ljust(4, b"\0"))[0]
        start, stated = start + 8 + offset, _unless_open(size)
        stated = None if stated is None else max(0, stated - 8 - offset)
    elif head[:4] == b"caff":
        start, stated = start + 4, None if size < 0 else max(0, size - 4)
    elif head[:4] == b"riff":
        stated = None if size >= 2**62 else max(0, size)
    else:
        stated = _unless_open(size)
    if start > end:
        return None
    is_wav = head[:4] not in (b"FORM", b"caff")
    block = struct.unpack(">H" if head[:4] == b"RIFX" else "<H", format[12:14])[0] if is_wav and len(format) > 13 else 0
    return _measured(file, layout, start, stated, end, lambda size: _make_header(head, format, size), block)


def _unless_open(size: int) -> int | None:
    return None if any(low <= size <= high for low, high in OPEN_SIZES) else size


def _make_header(head: bytes, format: bytes, size: int) -> bytes:
    if head[:4] == b"caff":
        desc = b"desc" + struct.pack(">q", len(format)) + format
        return head[:8] + desc + b"data" + struct.pack(">qI", size + 4, 0)
    padded = format + b"\0" * (len(format) % 2)
    if head[:4] == b"FORM":
        chunks = b"COMM" + struct.pack(">I", len(format)) + padded + b"SSND" + struct.pack(">III", size + 8, 0, 0)
        return b"FORM" + struct.pack(">I", 4 + len(chunks) + size) + head[8:12] + chunks
    order = ">" if head[:4] == b"RIFX" else "<"  # RF64 and W64 describe the format as RIFF does
    chunks = b"fmt " + struct.pack(f"{order}I", len(format)) + padded + b"data" + struct.pack(f"{order}I", size)
    magic = b"RIFX" if order == ">" else b"RIFF"
    return magic + struct.pack(f"{order}I", 4 + len(chunks) + size) + b"WAVE" + chunks


# The end of the audio


def _measured(
    file: BinaryIO,
    layout: Layout | None,
    start: int,
    stated: int | None,
    end: int,
    make_header: Callable[[int], bytes],
    block: int = 0,
) -> AudioData:
    names: list[bytes] = []
    if stated is None:
        size = _size_without_metadata(file, layout, start, start, end)
    elif stated < end - start:
        size, names = _actual_size(file, layout, start, stated, end)
    else:
        size = end - start
    is_followed = any(name.startswith(AUDIO_IDS) for name in names)
    needs_correction = stated is None or stated < size or is_followed
    if layout is not None and layout.id_bytes == 16:  # libsndfile reads W64 files to their end
        needs_correction |= start + size < end
    return AudioData(start, size, stated, is_followed, needs_correction, make_header, block)


def _actual_size(file: BinaryIO, layout: Layout | None, start: int, stated: int, end: int) -> tuple[int, list[bytes]]:
    """The actual size of audio data that do not end with the file according to the header, and the chunks after it."""
    sizes = [stated]
    if layout is None or struct.calcsize(layout.size) == 4:  # overflows with more than 4 GB
        sizes += range(stated + 2**32, end - start + 1, 2**32)
    for size in reversed(sizes):
        names = _metadata(file, layout, start + size, end)
        if names or (names is not None and size):  # size 0 and only zeros: an interrupted recording of silence
            return size, names
    if stated and end - start - stated <= MIN_REST:
        return stated, []
    return _size_without_metadata(file, layout, start, start + stated, end), []


def _metadata(file: BinaryIO, layout: Layout | None, position: int, end: int) -> list[bytes] | None:
    """Identifiers of the chunks from `position` to the end of the file; None if there is other data."""
    if layout is not None:
        for first in (position + -position % layout.align, position):  # some programs leave out the padding
            if (names := _walk(file, layout, first, end)) is not None:
                return names
    if TAGS.match(_read_at(file, position, 8)):
        return [b"tag"]
    return [] if _is_zero(file, position, end) else None


def _walk(file: BinaryIO, layout: Layout, position: int, end: int, may_be_cut: bool = True) -> list[bytes] | None:
    names: list[bytes] = []
    for name, content, size in _chunks(file, layout, position, end):
        if names and not any(name):
            return names if _is_zero(file, position, end) else None
        if not _is_identifier(name) or size < 0 or len(names) == MAX_CHUNKS:
            return None
        names.append(name)
        position = content + size
    if position > end + 1 and not (may_be_cut and METADATA.match(names[-1])):
        return None
    return names if names or position >= end else None


def _is_identifier(name: bytes) -> bool:
    return name.endswith(W64_ID_ENDINGS) if len(name) == 16 else all(32 <= byte < 127 for byte in name)


def _size_without_metadata(file: BinaryIO, layout: Layout | None, start: int, first: int, end: int) -> int:
    """Number of bytes from `start` to metadata chunks after `first` at the end of the file, or to its end."""
    if layout is not None:
        first = max(first, end - TAIL)
        for match in islice(METADATA.finditer(_read_at(file, first, TAIL)), MAX_MATCHES):
            if _walk(file, layout, first + match.start(), end, may_be_cut=False):
                return first + match.start() - start
    return end - start


def _chunks(file: BinaryIO, layout: Layout, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Identifier, position of the content, and stated size of the content of each chunk."""
    header_bytes = layout.id_bytes + struct.calcsize(layout.size)
    while position + header_bytes <= end:
        header = _read_at(file, position, header_bytes)
        if len(header) < header_bytes:
            return
        size = struct.unpack(layout.size, header[layout.id_bytes :])[0] - header_bytes * layout.counts_header
        position += header_bytes
        yield header[: layout.id_bytes], position, size
        position += max(0, size)
        position += -position % layout.align


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(max(0, size))


def _is_zero(file: BinaryIO, position: int, end: int) -> bool:
    while position < end:
        part = _read_at(file, position, min(2**20, end - position))
        if part.count(0) != len(part) or not part:
            return not part
        position += len(part)
    return True


# Reading


class CorrectedSound:
    """
    The audio of a file with a wrong size in its header, with the methods of `soundfile.SoundFile` for reading.

    libsndfile decodes it in pieces: each is copied to a temporary file, after a header with its size.
    """

    def __init__(self, file: BinaryIO, data: AudioData) -> None:
        self._file, self._data, self._position = file, data, 0
        self._whole: soundfile.SoundFile | None = None
        self._piece: Any = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        try:
            self._probe()
        except BaseException:
            self._piece.close()
            raise

    def _probe(self) -> None:
        """Finds the format, and the number of bytes and frames per block."""
        with self._open(self._data.block or PROBE_BYTES) as sound:
            self.format, self.subtype = sound.format, sound.subtype
            self.channels, self.samplerate = sound.channels, sound.samplerate
            self._block_bytes, self._block_frames = self._data.block, sound.frames
        if self.subtype.startswith(UNCOMPRESSED):
            with self._open(PROBE_BYTES * self.channels) as sound:
                self._block_bytes, self._block_frames = PROBE_BYTES * self.channels // max(1, sound.frames), 1
        elif self.subtype not in BLOCKWISE or not self._block_bytes:  # each block depends on all before it
            self._whole = self._open(self._data.size, 0)
            self.frames = self._whole.frames
            return
        self.frames = self._data.size // max(1, self._block_bytes) * self._block_frames

    def _open(self, size: int, start: int | None = None) -> soundfile.SoundFile:
        """Opens `size` bytes of the audio data from `start`, or of zeros, as a sound file."""
        self._piece.seek(0)
        self._piece.truncate()
        self._piece.write(self._data.make_header(size))
        self._file.seek(self._data.start + (start or 0))
        for done in range(0, size, COPY_BYTES):
            part = min(COPY_BYTES, size - done)
            self._piece.write(bytes(part) if start is None else self._file.read(part))
        self._piece.seek(0)
        return soundfile.SoundFile(self._piece.fileno() if os.name == "posix" else self._piece, closefd=False)

    def seek(self, frame: int) -> int:
        self._position = frame
        return frame

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        if self._whole is not None:
            return self._whole.read(frames, dtype, always_2d)
        stop = min(self._position + frames, self.frames)
        if stop <= self._position:
            return np.zeros((0, self.channels), dtype)
        first, last = self._position // self._block_frames, -(-stop // self._block_frames)
        with self._open((last - first) * self._block_bytes, first * self._block_bytes) as sound:
            samples = sound.read((last - first) * self._block_frames, dtype, always_2d)
        skipped = self._position - first * self._block_frames
        samples = samples[skipped : skipped + stop - self._position]
        self._position += len(samples)
        return samples

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
        self._piece.close()

    def __enter__(self) -> "CorrectedSound":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
