# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""WAV, AIFF, AU, CAF and W64 files with wrong sizes in their headers are read to the end of their audio."""

import io
import logging
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ced_model.audio import AudioError, duration_s, read_audio, read_blocks
from ced_model.training.distillation.chunks import ChunkReader, cut_file

RATE = 16000
SAMPLES = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * RATE, 2)).astype(np.float32)

# container → (bytes before the size field, its type, bytes before the audio that it includes)
SIZE_FIELDS = {
    "WAV": (b"data", "<I", 0),
    "WAVEX": (b"data", "<I", 0),
    "RIFX": (b"data", ">I", 0),
    "RF64": (b"ds64\x1c\0\0\0" + b"?" * 8, "<Q", 0),
    "W64": (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", "<Q", 24),
    "AIFF": (b"SSND", ">I", 8),
    "AU": (b".snd\0\0\0\x18", ">I", 0),
    "CAF": (b"data", ">q", 4),
}
CODECS = [("WAV", name) for name in ("PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "MS_ADPCM", "IMA_ADPCM", "GSM610")]
CODECS += [("WAVEX", "PCM_24"), ("AIFF", "FLOAT"), ("AIFF", "PCM_24"), ("AU", "ULAW"), ("CAF", "PCM_24")]


def encoded(container: str, subtype: str = "PCM_16", samples: np.ndarray = SAMPLES) -> bytes:
    file = io.BytesIO()
    format, endian = ("WAV", "BIG") if container == "RIFX" else (container, None)
    samples = samples[:, 0] if subtype == "GSM610" else samples
    with soundfile.SoundFile(file, "w", RATE, samples.ndim, subtype, endian, format) as sound:
        sound.write(samples)
    return file.getvalue()


def with_size(data: bytes, container: str, size: int) -> bytes:
    """`data` with another size of the audio in its header."""
    prefix, type, counted = SIZE_FIELDS[container]
    position = data.index(prefix[:4], 0 if container == "AU" else 8) + len(prefix)
    field = struct.pack(type, size if size < 0 or 2**31 - 1 <= size < 2**32 or size >= 2**62 else size + counted)
    return data[:position] + field + data[position + len(field) :]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("size", [0, 4000])
@pytest.mark.parametrize(("container", "subtype"), [(name, "PCM_16") for name in SIZE_FIELDS] + CODECS)
def test_audio_with_a_size_of_0_or_too_small_is_read_with_a_warning(container, subtype, size, caplog):
    data = encoded(container, subtype)
    expected = read_audio(data)
    assert not caplog.records
    broken = with_size(data, container, size)
    np.testing.assert_array_equal(read_audio(broken), expected)
    (message,) = logged(caplog)
    assert message.startswith("<bytes>: wrong header (") and " s); all 3." in message
    assert duration_s(broken) == pytest.approx(len(expected) / RATE, abs=1e-3)
    assert len(logged(caplog)) == 1


@pytest.mark.parametrize(
    ("container", "size"),
    [("WAV", 0xFFFFFFFF), ("WAV", 0x7FFFFFFF), ("AIFF", 0xFFFFFFFF), ("AU", 0xFFFFFFFF), ("AU", 0x7FFFFFFF)]
    + [("CAF", -1), ("W64", 2**63 - 1)],
)
def test_a_size_that_was_left_open_gives_no_warning(container: str, size: int, caplog):
    data = encoded(container)
    np.testing.assert_array_equal(read_audio(with_size(data, container, size)), read_audio(data))
    assert not logged(caplog)


def test_rf64_without_a_size_chunk_is_read_with_a_warning(caplog):
    data = encoded("RF64")
    np.testing.assert_array_equal(read_audio(data.replace(b"ds64", b"JUNK")), read_audio(data))
    assert "wrong header" in caplog.text


def chunk(container: str, name: bytes, content: bytes) -> bytes:
    size = {"RIFX": ">I", "AIFF": ">I", "CAF": ">q"}.get(container, "<I")
    if container == "W64":
        identifier = name.lower() + bytes.fromhex("f3acd3118cd100c04f8edb8a")
        return identifier + struct.pack("<Q", 24 + len(content)) + content + bytes(-len(content) % 8)
    return name + struct.pack(size, len(content)) + content + b"\0" * (len(content) % 2 and container != "CAF")


@pytest.mark.parametrize("container", [name for name in SIZE_FIELDS if name != "AU"])
def test_metadata_and_zeros_after_the_audio_are_not_read_and_give_no_warning(container: str, caplog):
    data = encoded(container)
    expected = read_audio(data)
    text = bytes(range(1, 200)) * 20 + b"!"
    chunks = [chunk(container, name, text) for name in (b"LIST", b"ID3 ", b"bext", b"xyzw")]
    tails = [chunks[0], b"".join(chunks), chunks[2] + bytes(5000), bytes(20000)]
    if container == "WAV":
        tails += [chunks[0][:500], b"TAG" + bytes(range(125)), b"ID3\4\0" + text]
    for tail in tails:
        np.testing.assert_array_equal(read_audio(data + tail), expected)
        assert duration_s(data + tail) == 3.0
    assert not caplog.records


def test_zeros_after_au_audio_are_padding(caplog):
    data = encoded("AU")
    np.testing.assert_array_equal(read_audio(data + bytes(20000)), read_audio(data))
    assert not caplog.records


@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF", "W64"])
def test_metadata_after_a_wrong_size_are_not_read_as_audio(container: str, caplog):
    data = encoded(container)
    broken = with_size(data, container, 0) + chunk(container, b"LIST", bytes(range(1, 201)) * 3)
    np.testing.assert_array_equal(read_audio(broken), read_audio(data))
    assert len(logged(caplog)) == 1


def test_an_empty_recording_with_metadata_holds_no_audio():
    with pytest.raises(AudioError, match="holds no audio"):
        read_audio(encoded("WAV", samples=SAMPLES[:0]) + chunk("WAV", b"LIST", b"INFO" * 50))


def test_an_unfinished_recording_of_silence_is_silence(caplog):
    broken = with_size(encoded("WAV", samples=np.zeros_like(SAMPLES)), "WAV", 0)
    np.testing.assert_array_equal(read_audio(broken), np.zeros(3 * RATE))
    assert "wrong header" in caplog.text


def test_a_second_recording_after_the_end_is_reported(caplog):
    data = encoded("WAV")
    np.testing.assert_array_equal(read_audio(data + data), read_audio(data))
    assert logged(caplog) == ["<bytes>: another recording follows its end, which is not read"]


@pytest.mark.parametrize(("extra", "tail"), [(0, b""), (123, chunk("WAV", b"LIST", b"INFO" * 50))])
def test_a_wav_of_more_than_4_gb_with_an_overflowed_size_is_read_completely_in_bounded_memory(
    extra, tail, tmp_path, caplog
):
    seconds, rate = 37 * 3600, 48000
    size = seconds * rate * 2 + 2 * extra
    header = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", (size + 36) % 2**32, b"WAVE", b"fmt ", 16, 1, 1, rate, 96000, 2, 16
    )
    end = np.full(rate, 16384, "<i2").tobytes()
    path = tmp_path / "long.wav"
    with open(path, "wb") as file:  # sparse
        file.write(header + struct.pack("<4sI", b"data", size % 2**32))
        file.seek(44 + size - len(end))
        file.write(end + tail)
    assert duration_s(path) == seconds + extra / rate
    tracemalloc.start()
    blocks = read_blocks(path)
    assert len(next(blocks)) == 30 * 16000
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert f"all {seconds:.1f} s in the file are read" in caplog.text


def test_chunks_are_cut_from_the_actual_data(tmp_path: Path):
    data = encoded("WAV")
    (tmp_path / "right.wav").write_bytes(data)
    (tmp_path / "wrong.wav").write_bytes(with_size(data, "WAV", 4000))
    right, wrong = cut_file(tmp_path, "right.wav", RATE), cut_file(tmp_path, "wrong.wav", RATE)
    assert len(wrong) == 3
    for first, second in zip(right, wrong, strict=True):
        assert (first.start, first.num_samples, first.crc32) == (second.start, second.num_samples, second.crc32)
    reader = ChunkReader(tmp_path, RATE)
    np.testing.assert_array_equal(reader.read(wrong[1]), reader.read(right[1]))


@pytest.mark.parametrize("container", SIZE_FIELDS)
def test_a_file_truncated_anywhere_in_its_first_bytes_is_audio_or_an_error(container: str):
    data = encoded(container, samples=SAMPLES[:50])
    for end in range(1, len(data), 3):
        for broken in (data[:end], with_size(data, container, 0)[:end]):
            try:
                assert len(read_audio(broken)) <= 50
            except AudioError as error:
                assert str(error).isprintable()
