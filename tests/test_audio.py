# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading of audio with `ced_model.audio`: valid and invalid inputs of every kind."""

import array
import builtins
import ctypes
import gzip
import io
import logging
import os
import socket
import struct
import tracemalloc
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ced_model import audio_inputs
from ced_model.audio import (
    AUDIO_EXTENSIONS,
    AudioError,
    describe,
    duration_s,
    is_single_input,
    load_audio,
    read_audio,
    read_blocks,
)
from ced_model.messages import OptionError

RESOURCES = Path(__file__).parent.parent / "resources"
TABLA = RESOURCES / "loop_tabla.flac"  # 10.7 s, stereo, 44.1 kHz
CROW = RESOURCES / "misc_crow.flac"  # 0.5 s, mono

# name → (format, subtype) of libsndfile
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav8": ("WAV", "PCM_U8"),
    "wavfloat": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
}
AV_CODECS = {"m4a": ("ipod", "aac"), "mp4": ("mp4", "aac"), "webm": ("webm", "libopus"), "mkv": ("matroska", "flac")}


def recording(path: Path = TABLA, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """The complete file, decoded by soundfile: float32 of shape (frames, channels), and Hz."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples[: None if seconds is None else int(seconds * rate)], rate


def encoded(samples: np.ndarray, rate: int, name: str = "wav") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=FORMATS[name][0], subtype=FORMATS[name][1])
    return file.getvalue()


def encoded_by_av(samples: np.ndarray, rate: int, name: str, video: bool = False, sound: bool = True) -> bytes:
    file = io.BytesIO()
    format, codec = AV_CODECS[name]
    with av.open(file, "w", format=format) as container:
        if video:
            pictures = container.add_stream("mpeg4", rate=5)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
        if sound:
            stream = container.add_stream(codec, rate=rate, layout="stereo" if samples.shape[1] == 2 else "mono")
        if video:
            for _ in range(5):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))
        if sound:
            for start in range(0, len(samples), 960):
                part = np.ascontiguousarray(samples[start : start + 960].T)
                frame = av.AudioFrame.from_ndarray(part, "fltp", stream.layout.name)
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return file.getvalue()


def whole(samples: np.ndarray, rate: float) -> np.ndarray:
    """The expected result: the mean over channels, resampled at once."""
    mono = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    return mono if rate == 16000 else soxr.resample(mono, rate, 16000, quality="HQ")


def refusal(source: object, **options: object) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable() and message.startswith(describe(source) + ": ")
    return message


@pytest.fixture
def without_av(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)


# Decoding


@pytest.mark.parametrize("name", FORMATS)
def test_every_soundfile_format_equals_decoding_and_resampling_at_once(name: str, tmp_path: Path, caplog):
    samples, rate = recording(seconds=3.3)
    path = tmp_path / f"clip.{name}"
    path.write_bytes(encoded(samples, 48000 if name == "opus" else rate, name))
    expected = whole(*recording(path))
    result = read_audio(path)
    assert result.dtype == np.float32 and result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert not caplog.records
    assert duration_s(path) == pytest.approx(len(expected) / 16000, abs=1e-3)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000, 768000])
@pytest.mark.parametrize("channels", [1, 2, 6, 24])
def test_any_rate_and_channel_count_becomes_16_khz_mono(rate: int, channels: int):
    mono = recording(seconds=1.0)[0][:, 0]
    samples = mono[:, np.newaxis] * np.linspace(-0.5, 1, channels, dtype=np.float32)
    data = encoded(samples, rate, "wavfloat")
    np.testing.assert_allclose(read_audio(data), whole(samples, rate), atol=1e-6)


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_samples_do_not_depend_on_the_block_size(name: str, rate: int):
    data = encoded(recording()[0], rate, name)
    expected = read_audio(data)
    for block_s in (0.01, 0.7, 2.0, 1000.0):
        blocks = list(read_blocks(data, block_s=block_s))
        assert {len(block) for block in blocks[:-1]} <= {round(block_s * 16000)}
        assert 0 < len(blocks[-1]) <= round(block_s * 16000)
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
    if rate == 16000:
        np.testing.assert_allclose(expected, recording_of(data).mean(axis=1), rtol=0, atol=1e-7)


def recording_of(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]


def test_walking_a_folder_finds_every_supported_format():
    names = ("wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "caf", "w64", "rf64")
    assert {f".{name}" for name in names} <= AUDIO_EXTENSIONS
    assert {f".{name}" for name in AV_CODECS} <= AUDIO_EXTENSIONS
    assert all(name == name.lower() and name.startswith(".") for name in AUDIO_EXTENSIONS)


def test_the_sampling_rate_can_be_chosen():
    samples, rate = recording(CROW)
    expected = soxr.resample(samples[:, 0], rate, 32000)
    np.testing.assert_allclose(read_audio(CROW, sampling_rate=32000), expected, atol=1e-6)


def test_memory_does_not_grow_with_the_length_of_the_file(tmp_path: Path):
    peaks = []
    for hours in (0.1, 2):
        path = tmp_path / "long.wav"
        size = int(hours * 3600 * 8000) * 2
        header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
        header += struct.pack("<4sI", b"data", size)
        with open(path, "wb") as file:
            file.write(header)
            file.truncate(len(header) + size)  # sparse
        tracemalloc.start()
        assert sum(map(len, read_blocks(path))) == hours * 3600 * 16000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20 < 2**24


def test_flac_of_unknown_length_is_read_to_its_end(caplog):
    data = bytearray(encoded(*recording(), "flac"))
    data[21] &= 0xF0  # STREAMINFO: 36 bits of total samples, which are 0 if the encoder writes to a pipe
    data[22:26] = bytes(4)
    np.testing.assert_array_equal(read_audio(bytes(data)), read_audio(TABLA))
    assert duration_s(bytes(data)) is None and not caplog.records


def test_wav_written_to_a_pipe_is_not_reported_as_truncated(caplog):
    data = bytearray(encoded(*recording(CROW)))
    data[4:8] = data[40:44] = b"\xff" * 4
    np.testing.assert_array_equal(read_audio(bytes(data)), read_audio(CROW))
    assert not caplog.records


@pytest.mark.parametrize("name", ["mp3", "ogg", "opus"])
def test_all_of_several_concatenated_files_are_read(name: str, caplog):
    data = encoded(recording()[0], 48000, name)
    expected = read_audio(data)
    result = read_audio(data + data)
    assert len(result) == pytest.approx(2 * len(expected), abs=2000)
    np.testing.assert_allclose(result[: len(expected) - 500], expected[:-500], atol=1e-6)
    assert np.std(result[len(expected) :]) == pytest.approx(np.std(expected), rel=0.02)
    assert not caplog.records


def variable_rate_mp3_without_length() -> bytes:
    file = io.BytesIO()
    samples, rate = recording()
    with soundfile.SoundFile(file, "w", rate, 2, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5) as sound:
        sound.write(samples)
    data = file.getvalue()
    assert b"Xing" in data[:417]
    return data[data.index(b"\xff\xfb", 4) :]


def test_mp3_without_a_length_header_is_read_to_its_end(caplog):
    assert len(read_audio(variable_rate_mp3_without_length())) == pytest.approx(10.7 * 16000, rel=0.01)
    assert not caplog.records


def test_mp3_that_libsndfile_does_not_read_to_its_end_is_reported_without_pyav(without_av: None, caplog):
    assert len(read_audio(variable_rate_mp3_without_length())) < 9 * 16000
    assert len(caplog.records) == 1 and "pip install av" in caplog.text and "only the first" in caplog.text
    assert caplog.records[0].getMessage().count("<bytes>") == 1


@pytest.mark.parametrize("name", AV_CODECS)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_that_libsndfile_cannot_open_are_read_by_pyav(name: str, channels: int, caplog):
    samples = recording()[0][:, :channels]
    data = encoded_by_av(samples, 48000, name)
    expected, result = whole(samples, 48000), read_audio(data)
    assert len(result) == pytest.approx(len(expected), abs=1600)
    length = min(len(result), len(expected))
    assert np.corrcoef(result[:length], expected[:length])[0, 1] > 0.98
    assert result.std() == pytest.approx(expected.std(), rel=0.05)
    assert duration_s(data) == pytest.approx(len(expected) / 16000, abs=0.1)
    assert not caplog.records


def test_lossless_audio_through_pyav_is_exact():
    samples = recording()[0]
    data = encoded_by_av(samples, 16000, "mkv")
    np.testing.assert_allclose(read_audio(data), samples.mean(axis=1), atol=2**-15)


def test_the_audio_of_a_video_is_read_and_a_video_without_audio_is_refused():
    samples = recording()[0]
    assert len(read_audio(encoded_by_av(samples, 48000, "mp4", video=True))) > 9 * 16000
    assert "no audio stream" in refusal(encoded_by_av(samples, 48000, "mp4", video=True, sound=False))


def test_without_pyav_the_message_names_the_extra(without_av: None, tmp_path: Path):
    path = tmp_path / "clip.m4a"
    path.write_bytes(encoded_by_av(recording()[0], 48000, "m4a"))
    assert "pip install av" in refusal(path)
    assert duration_s(path) is None
    assert len(read_audio(CROW)) > 0


def test_a_playlist_fetches_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        refusal(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n".encode())
        refusal(f"ffconcat version 1.0\nfile '{url}'\n".encode())
        with pytest.raises(TimeoutError):
            server.accept()


# Kinds of input


class Forward(io.RawIOBase):
    """A stream that is not seekable, like standard input or a download."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        return self.data.readinto(buffer)


@pytest.mark.parametrize("name", ["wav", "mp3", "m4a"])
def test_bytes_and_file_objects_equal_the_path(name: str, tmp_path: Path):
    samples, rate = recording()
    data = encoded(samples, rate, name) if name in FORMATS else encoded_by_av(samples, rate, name)
    path = tmp_path / "clip"
    path.write_bytes(data)
    expected = read_audio(path)
    zipped = tmp_path / "clip.gz"
    zipped.write_bytes(gzip.compress(data))
    with open(path, "rb") as file, open(path, "rb", buffering=0) as raw, gzip.open(zipped) as unzipped:
        file.seek(7)
        for source in (str(path), data, bytearray(data), io.BytesIO(data), file, raw, unzipped, Forward(data)):
            np.testing.assert_array_equal(read_audio(source), expected)
        assert file.tell() == 7 and file.read(9) == data[7:16]


class OtherText(str):
    pass


@pytest.mark.parametrize(
    "as_path", [str, np.str_, OtherText, Path, PurePath, np.array, lambda path: np.array(Path(path), object)]
)
def test_path_like_objects_are_paths(as_path, tmp_path: Path):
    source = as_path(str(CROW))
    np.testing.assert_array_equal(read_audio(source), read_audio(CROW))
    assert describe(source) == str(CROW) and duration_s(source) == duration_s(CROW)
    assert is_single_input(source)
    assert "No such file" in refusal(as_path("/no/such/file.wav"))


@pytest.mark.parametrize(
    "as_bytes",
    [
        bytes,
        bytearray,
        memoryview,
        np.bytes_,
        np.array,
        lambda data: array.array("B", data),
        lambda data: memoryview(data)[::1],
    ],
)
def test_bytes_like_objects_are_the_content_of_a_file(as_bytes):
    source = as_bytes(CROW.read_bytes())
    np.testing.assert_array_equal(read_audio(source), read_audio(CROW))
    assert describe(source) == "<bytes>" and duration_s(source) == duration_s(CROW)
    assert is_single_input(source)


def test_a_memory_mapped_file_is_the_content_of_a_file():
    with open(CROW, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as source:
        np.testing.assert_array_equal(read_audio(source), read_audio(CROW))
        assert describe(source) == "<bytes>" and is_single_input(source)


@pytest.mark.parametrize("several", [["a.wav"], np.array(["a.wav", "b.wav"]), ("a.wav",), iter([])])
def test_several_inputs_are_not_one(several):
    assert not is_single_input(several)


def test_arrays_and_tensors_have_16_khz_by_default():
    samples, rate = recording(CROW)
    mono = samples[:, 0]
    for waveform in (
        mono,
        mono.astype(np.float64),
        torch.tensor(mono, requires_grad=True),
        mono[np.newaxis],
        mono.repeat(2)[::2],
    ):
        np.testing.assert_array_equal(read_audio(waveform), mono)
        np.testing.assert_allclose(read_audio(waveform, array_sampling_rate=rate), read_audio(CROW), atol=1e-6)
    for key, other in (("array", "raw"), ("raw", "array")):
        source = {key: mono, other: None, "sampling_rate": rate, "path": None}
        np.testing.assert_allclose(read_audio(source), read_audio(CROW), atol=1e-6)
        assert duration_s(source) == pytest.approx(len(mono) / rate)


def test_an_array_of_channels_in_a_dict_is_mixed():
    samples, rate = recording()
    result = read_audio({"array": torch.from_numpy(samples.T.copy()), "sampling_rate": rate})
    np.testing.assert_allclose(result, read_audio(TABLA), atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_integer_pcm_is_scaled_by_the_range_of_its_dtype(dtype: str):
    info = np.iinfo(dtype)
    full, zero = float(-info.min or 128), 0 if info.min else 128
    pcm = np.array([info.min, zero, info.max], dtype)
    np.testing.assert_allclose(read_audio(pcm), [-1, 0, (info.max - zero) / full], atol=1e-7)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros(9, np.int64), "int64"),
        (np.zeros(9, complex), "complex128"),
        (np.zeros(9, bool), "bool"),
        (np.array(["a"]), "type <U1"),
        (np.zeros((2, 16000)), "(2, 16000)"),
        (np.float32(1), "shape ()"),
        (np.zeros((1, 1, 9)), "(1, 1, 9)"),
        (np.zeros(0), "holds no audio"),
        (torch.zeros(2, 0), "(2, 0)"),
        (np.zeros((0, 9)), "(0, 9)"),
        ({"array": np.zeros((0, 0)), "sampling_rate": 8000}, "(0, 0)"),
        (np.ma.masked_greater(np.linspace(0, 1, 9), 0.5), "masked samples: fill them"),
        ({"array": np.ma.masked_all(9), "sampling_rate": 8000}, "masked samples: fill them"),
        (torch.zeros(9).to_sparse(), "not an array"),
        (torch.zeros(9, device="meta"), "not an array"),
        ({"array": np.zeros(9), "sampling_rate": 10**400}, "not an array with a sampling rate"),
        ({"array": np.zeros((16000, 2)), "sampling_rate": 16000}, "(16000, 2)"),
        ({"array": np.zeros((33, 16000)), "sampling_rate": 16000}, "at most 32"),
        ({"array": np.zeros(9)}, "sampling_rate"),
        ({"path": "a.wav"}, "a.wav: cannot be opened"),
        ({"bytes": None, "path": None}, "a row without audio: its bytes and path are None"),
        ({"bytes": 3, "path": None}, "a row without audio: bytes is of type int"),
        ({"path": ["a.wav"]}, "a row without audio: path is of type list"),
        ({"path": float("nan")}, "a row without audio: path is of type float"),
        ({"array": np.zeros(9), "raw": np.ones(9), "sampling_rate": 8000}, 'both "array" and "raw": pass one of them'),
        ({"bytes": b"RIFF", "path": "a.wav"}, "a.wav: "),
        ({"audio": "a.wav", "label": 1}, "a dictionary without audio; it has 'audio', 'label': pass"),
        ({"left": {"bytes": b""}, "right": {"bytes": b""}}, "audio in 'left' and 'right': pass one, as row['left']"),
        ({}, "a dictionary without audio; it has no keys"),
        ({"array": np.zeros(9), "sampling_rate": None}, 'needs "array" (or "raw") and "sampling_rate"'),
        ({"array": np.zeros(9), "sampling_rate": 0}, "0 Hz"),
        ({"array": np.zeros(9), "sampling_rate": -8000}, "-8000 Hz"),
        ({"array": np.zeros(9), "sampling_rate": float("nan")}, "nan Hz"),
        ({"array": [[1.0], [1.0, 2.0]], "sampling_rate": 8000}, "not an array"),
        (np.array([0, 0, np.nan, 0], np.float32), "NaN or infinite"),
        (np.array([0, 1e300]), "NaN or infinite"),
        ([0.0, 0.5], "not audio"),
        (None, "not audio"),
        (12, "not audio"),
        (io.StringIO("text"), "binary mode"),
    ],
)
def test_objects_that_are_not_audio_are_refused_in_one_line(source: object, reason: str):
    assert reason in refusal(source)
    assert duration_s(source) is None or isinstance(duration_s(source), float)


class Decoder:
    """The interface of torchcodec's AudioDecoder."""

    def __init__(self, samples: np.ndarray, encoded: dict | None = None) -> None:
        self.samples = samples
        if encoded is not None:
            self._hf_encoded = encoded  # set by datasets

    def get_all_samples(self) -> SimpleNamespace:
        return SimpleNamespace(data=torch.from_numpy(self.samples), sample_rate=16000)


@pytest.mark.parametrize("is_row", [False, True], ids=["value", "row"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bytes and path", "a.wav"),
        ("bytes", "<bytes>"),
        ("path", None),
        ("array", "a.wav"),
        ("lazy row", "a.wav"),
        ("decoder", "<array>"),
        ("decoder of bytes", "a.wav"),
        ("decoder of a path", None),
        ("decoder of a remote path", "hf://datasets/a.wav"),
    ],
)
def test_the_audio_of_a_datasets_row_equals_its_file(clip: Path, kind: str, name: str | None, is_row: bool):
    content, path, samples = clip.read_bytes(), str(clip), soundfile.read(clip, dtype="float32")[0]
    encoded = {"bytes": content, "path": "a.wav"}
    source: Any = {
        "bytes and path": encoded,
        "bytes": {"bytes": content, "path": None},
        "path": {"bytes": None, "path": path},
        "array": {"array": samples, "sampling_rate": 16000, "path": "a.wav"},
        "lazy row": UserDict(encoded),
        "decoder": Decoder(samples[None]),
        "decoder of bytes": Decoder(samples[None], encoded),
        "decoder of a path": Decoder(samples[None], {"bytes": None, "path": path}),
        "decoder of a remote path": Decoder(samples[None], {"bytes": None, "path": "hf://datasets/a.wav"}),
    }[kind]
    source = {"file": "a.wav", "audio": source, "label": 3} if is_row else source
    np.testing.assert_array_equal(read_audio(source), samples)
    assert describe(source) == (name or path) and is_single_input(source)
    assert duration_s(source) == 0.5


def test_load_audio_returns_a_mono_waveform_and_its_rate(long_clip: Path):
    waveform, rate = load_audio(long_clip)
    assert (waveform.dtype, waveform.shape, rate) == (np.float32, (round(25.3 * 16000),), 16000)
    np.testing.assert_array_equal(waveform, read_audio(long_clip))
    left, rate = load_audio(long_clip, 22050, channel=0)
    np.testing.assert_array_equal(left, soundfile.read(long_clip, dtype="float32")[0][:, 0])
    assert rate == 22050 and len(load_audio(np.zeros(8000, np.float32), array_sampling_rate=8000)[0]) == 16000
    for options in ({"sampling_rate": 0}, {"sampling_rate": None}, {"sampling_rate": "16 kHz"}, {"channel": -1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            load_audio(long_clip, **options)


def test_a_file_object_that_fails_is_an_audio_error():
    class Failing(Forward):
        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            raise ConnectionResetError("connection reset\nby peer")

    assert "connection reset by peer" in refusal(Failing(b""))
    closed = io.BytesIO(b"RIFF")
    closed.close()
    assert "closed file" in refusal(closed)
    assert duration_s(closed) is None and duration_s(Forward(CROW.read_bytes())) is None


def test_keyboard_interrupt_is_not_swallowed():
    class Interrupted(Forward):
        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_audio(Interrupted(b""))


# Channels


def stereo(left: np.ndarray, right: np.ndarray, rate: int = 16000) -> bytes:
    return encoded(np.stack([left, right], axis=1), rate, "wavfloat")


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_channels_that_cancel_each_other_out_give_one_warning(share: float, caplog):
    mono = recording()[0][:, 0]
    for source in (
        stereo(mono, -share * mono),
        {"array": np.stack([mono, -share * mono]), "sampling_rate": 16000},
    ):
        caplog.clear()
        assert np.abs(read_audio(source)).max() <= 0.06
        (message,) = [record.getMessage() for record in caplog.records]
        assert "the channels cancel each other out for" in message and "loudest" in message
        caplog.clear()
        np.testing.assert_allclose(read_audio(source, channel=0), mono, atol=1e-7)
        np.testing.assert_allclose(read_audio(source, channel=1), -share * mono, atol=1e-7)
        np.testing.assert_allclose(read_audio(source, channel="loudest"), mono, atol=1e-7)
        assert not caplog.records


def test_channels_that_do_not_cancel_give_no_warning(caplog):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (32, 16000)).astype(np.float32)
    for samples in (noise, noise[:2], noise * (np.arange(32) == 3)[:, np.newaxis], noise[:2] * 1e-6, -noise[:1]):
        read_audio({"array": samples, "sampling_rate": 16000})
    assert not caplog.records


def test_the_loudest_channel_is_chosen_over_the_complete_file():
    rng = np.random.default_rng(0)
    left, right = (rng.uniform(-level, level, 40 * 16000).astype(np.float32) for level in (0.1, 0.3))
    right[: 30 * 16000] = 0
    for name in ("wav", "flac"):
        data = encoded(np.stack([left, right], axis=1), 16000, name)
        blocks = list(read_blocks(data, channel="loudest", block_s=5))
        np.testing.assert_allclose(np.concatenate(blocks), right, atol=1e-4)
    assert len(read_audio(CROW, channel="loudest")) == len(read_audio(CROW))


def test_a_truncated_file_gives_one_warning_with_the_loudest_channel(caplog):
    data = encoded(*recording())
    read_audio(data[: len(data) // 2], channel="loudest")
    assert len(caplog.records) == 1


def test_a_channel_that_does_not_exist_is_an_error_of_the_input():
    assert "has 2 channels, numbered from 0: there is no channel 2" in refusal(TABLA, channel=2)
    assert "has 1 channel, numbered from 0: there is no channel 1" in refusal(CROW, channel=1)
    assert "there is no channel 1" in refusal(np.zeros(99, np.float32), channel=1)


@pytest.mark.parametrize("channel", ["left", "0", -1, 0.5, True, None])
def test_invalid_channels_are_refused(channel: object):
    with pytest.raises(ValueError, match="`channel=.*`: expected mix, loudest or the number of a channel"):
        read_audio(CROW, channel=channel)  # type: ignore[arg-type]


# Bad files


def test_urls_are_never_fetched():
    for url in ("http://127.0.0.1:1/a.wav", "HTTPS://example.org/a.mp3", "ftp://example.org/a.wav", "file:///a.wav"):
        assert "download it first" in refusal(url)


def test_pipes_and_devices_are_refused_without_opening_them(tmp_path: Path):
    fifo = tmp_path / "fifo.wav"
    os.mkfifo(fifo)
    assert "pipe" in refusal(fifo)
    assert "device" in refusal("/dev/zero")
    assert "directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "vanished.wav")
    assert "null" in refusal("a\0.wav")
    assert "too long" in refusal("a" * 5000)


def damaged_mp3s() -> list[bytes]:
    data = encoded(*recording(), "mp3")
    middle = len(data) // 2
    noise = np.random.default_rng(0).bytes(3000)
    return [
        data[:middle] + noise + data[middle + 1000 :],
        data[:middle] + data[middle + 500 :],
        data[400:],
        noise + data,
    ]


def test_messages_of_libraries_about_damaged_files_are_not_on_standard_error(capfd, caplog):
    sources = damaged_mp3s()
    for name in ("m4a", "mkv"):
        data = encoded_by_av(recording()[0], 48000, name)
        sources += [data[:-3000] + bytes(3000), data[:500] + b"\xff" * 300 + data[800:], data[: len(data) // 2]]
    for source in sources:
        try:
            read_audio(source)
        except AudioError as error:
            assert str(error).count("<bytes>") == 1
    assert capfd.readouterr() == ("", "")
    for record in caplog.records:
        assert record.getMessage().count("<bytes>") == 1


def test_c_code_can_print_again_after_mp3_was_read(capfd):
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(read_audio, data) for data in damaged_mp3s() * 2]:
            future.exception()
    libc = ctypes.CDLL(None)
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")
    libc.fputs(b"printed by C", stderr)
    libc.fflush(stderr)
    assert capfd.readouterr().err == "printed by C"


def test_missing_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: object, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(audio_inputs, "open", refuse, raising=False)
    assert refusal(CROW).endswith("Permission denied")


@pytest.mark.parametrize("name", [b"line\nbreak\t.flac", b"not utf-8 \xff\xe9.flac", "Hühner 鶏.flac".encode()])
def test_any_file_name_is_read_and_printed_on_one_line(name: bytes, tmp_path: Path):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(CROW.read_bytes())
    expected = read_audio(CROW)
    np.testing.assert_array_equal(read_audio(os.fsdecode(path)), expected)
    np.testing.assert_array_equal(read_audio(Path(os.fsdecode(path))), expected)
    assert describe(os.fsdecode(path)).isprintable()
    os.truncate(path, 0)
    assert "empty" in refusal(os.fsdecode(path))


def test_inputs_have_short_printable_names(tmp_path: Path):
    assert describe(os.fsdecode(b"a\nb\xff\x1b[31m.wav")) == r"a\nb\xff\x1b[31m.wav"
    assert describe("Hühner 鶏.flac") == "Hühner 鶏.flac"
    assert describe("evil\u202efla.wav") == r"evil\u202efla.wav"
    assert describe(b"RIFF") == "<bytes>" and describe(io.BytesIO()) == "<file>"
    assert describe(np.zeros(3)) == describe(torch.zeros(3)) == describe({"array": []}) == "<array>"
    with open(CROW, "rb") as file:
        assert describe(file) == str(CROW)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"This is a text file.\n" * 200, bytes(5000), b"fLaC" + bytes(100)])
@pytest.mark.parametrize("has_av", [True, False])
def test_a_file_that_is_not_audio_is_refused(data: bytes, has_av: bool, tmp_path: Path, request):
    if not has_av:
        request.getfixturevalue("without_av")
    path = tmp_path / "notes.wav"
    path.write_bytes(data)
    refusal(path)
    assert duration_s(path) is None


def test_no_samples_are_an_error_and_one_sample_is_not():
    one = np.full((1, 1), 0.5, np.float32)
    assert "holds no audio" in refusal(encoded(one[:0], 16000))
    np.testing.assert_array_equal(read_audio(encoded(one, 16000)), [0.5])
    assert len(read_audio(encoded(one, 8000))) == 2
    assert "shorter than one sample" in refusal(encoded(one, 44100))


def test_an_mp3_cut_to_its_first_bytes_has_no_frame():
    assert "no audio frame found" in refusal(encoded(*recording(CROW), "mp3")[:100])


def test_silence_is_audio():
    np.testing.assert_array_equal(read_audio(encoded(np.zeros((16000, 2)), 16000)), np.zeros(16000))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_in_a_file_is_refused_with_its_position_after_the_audio_before_it(bad: float):
    samples, rate = recording()
    samples = samples.copy()
    samples[round(7.25 * rate), 1] = bad
    data = encoded(samples, rate, "wavfloat")
    assert "7.250 s" in refusal(data)
    received: list[np.ndarray] = []
    with pytest.raises(AudioError):
        for block in read_blocks(data, block_s=2.0):
            received.append(block)
    joined = np.concatenate(received)
    assert 6.9 * 16000 < len(joined) < 7.25 * 16000
    np.testing.assert_array_equal(joined, read_audio(TABLA)[: len(joined)])


def test_the_error_for_a_damaged_file_has_the_length_that_was_read():
    data = bytearray(TABLA.read_bytes())
    middle = len(data) // 2
    assert "after 5.0 s" in refusal(bytes(data[:middle]))
    data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    assert "damaged or truncated after" in refusal(bytes(data))


@pytest.mark.parametrize("name", ["wav", "wavfloat", "aiff", "au", "w64", "rf64", "mp3", "ogg", "opus"])
def test_a_truncated_file_is_read_to_its_end_with_a_warning(name: str, caplog):
    data = encoded(recording()[0], 48000, name)
    expected = read_audio(data)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        result = read_audio(data[: len(data) // 2 + 1])
    assert 0.35 < len(result) / len(expected) < 0.6
    np.testing.assert_allclose(result[:-3000], expected[: len(result) - 3000], atol=1e-6)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert message.startswith("<bytes>: truncated, only") and message.isprintable()


def test_a_truncated_m4a_is_refused():
    data = encoded_by_av(recording()[0], 48000, "m4a")
    refusal(data[: len(data) // 2])


@pytest.mark.parametrize("rate", [1, 999, 10_000_001, 2_000_000_000])
def test_an_impossible_rate_is_refused(rate: int):
    data = bytearray(encoded(*recording(CROW)))
    data[24:28] = struct.pack("<I", rate)
    samples = np.zeros(100, np.float32)
    for reason in (
        refusal(bytes(data)),
        refusal(samples, array_sampling_rate=rate),
        refusal({"array": samples, "sampling_rate": rate}),
    ):
        assert f"sampling rate {rate:g} Hz: expected 1000 to 10000000 Hz" in reason


def test_the_lowest_rate_is_1_khz():
    data = encoded(recording()[0][:1000, :1], 1000, "wavfloat")
    np.testing.assert_allclose(read_audio(data), whole(recording_of(data), 1000), atol=1e-6)


def broken_inputs() -> st.SearchStrategy[bytes]:
    """Truncated, overwritten and spliced files of every format; headers followed by noise; noise."""
    samples, rate = recording(CROW)
    originals = [encoded(samples[:6000], 48000, name) for name in FORMATS]
    originals += [encoded_by_av(samples[:6000], 48000, name) for name in AV_CODECS]
    original = st.sampled_from(originals)
    position = st.floats(0, 1, exclude_max=True)

    def overwrite(data: bytes, edits: list[tuple[float, bytes]]) -> bytes:
        damaged = bytearray(data)
        for where, patch in edits:
            start = int(where * len(data))
            damaged[start : start + len(patch)] = patch
        return bytes(damaged)

    header_position = st.floats(0, 0.02)
    edits = st.lists(st.tuples(position | header_position, st.binary(min_size=1, max_size=60)), min_size=1, max_size=6)
    overwritten = st.builds(overwrite, original, edits)
    cut = st.builds(lambda data, end: data[: int(end * len(data))], original | overwritten, position)
    spliced = st.builds(lambda a, b, at: a[: int(at * len(a))] + b[int(at * len(b)) :], original, original, position)
    headed = st.builds(lambda data, size, noise: data[:size] + noise, original, st.integers(4, 64), st.binary())
    return st.one_of(overwritten, cut, spliced, headed, st.binary(max_size=2000))


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=broken_inputs())
def test_a_broken_input_gives_audio_or_an_audio_error(data: bytes):
    try:
        for block in read_blocks(data, block_s=60):
            assert block.dtype == np.float32 and block.ndim == 1 and len(block) and np.isfinite(block).all()
    except AudioError as error:
        assert str(error).isprintable() and str(error).startswith("<bytes>: ")
    assert duration_s(data) is None or duration_s(data) >= 0
