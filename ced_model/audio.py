# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio files, bytes and arrays → blocks of mono float32 at the model's sampling rate, in bounded memory.

libsndfile decodes most formats (wav, flac, ogg, opus, mp3, aiff, …). PyAV decodes the others if the extra `[av]` is
installed (m4a, mp4, webm, …). Damage is always reported: if the decoder fails midway, the audio before that point is
delivered and then an `AudioError` is raised with its length; if the header states another length than the file has,
the audio in the file is delivered and a one-line warning is logged.
"""

import io
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from .audio_chunks import (
    MAX_SAMPLING_RATE,
    MIN_SAMPLING_RATE,
    Chunk,
    Warn,
    checked_rate,
    chunk_frames,
    no_warning,
    reason_of,
    to_float,
    warn_if_cut,
)
from .audio_chunks import AudioError as AudioError
from .av_decoding import av_chunks, av_container, av_stream, stated_end_s
from .messages import OptionError, printable
from .soundfile_decoding import UNKNOWN_FRAMES as UNKNOWN_FRAMES
from .soundfile_decoding import (
    mp3_states_length,
    open_sound,
    promised_frames,
    soundfile_chunks,
    unread_bytes,
    warn_of_header,
)

logger = logging.getLogger(__name__)

AudioInput = str | os.PathLike | bytes | BinaryIO | np.ndarray | dict[str, Any] | Any  # Any: tensors, decoders

AUDIO_EXTENSIONS = frozenset(
    # libsndfile
    ".wav .wave .bwf .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .au .snd .caf .w64 .rf64 .voc .sph .nist .wve "
    ".xi .avr .paf .pvf .sf .ircam .8svx .iff "
    # PyAV
    ".m4a .m4b .mp4 .m4v .mov .aac .adts .webm .weba .mka .mkv .wma .wmv .asf .avi .flv .amr .3gp .3g2 .ac3 .eac3 .dts "
    ".ts .m2ts .mts .mpg .mpeg .vob .ogv .ape .wv .tta .mpc .tak .ra .rm".split()
)

SAMPLING_RATE = 16000
MAX_ARRAY_CHANNELS = 32
MAX_PATH = 4096  # bytes, on Linux

MIX, LOUDEST = "mix", "loudest"
CANCELLED = 0.01  # energy of the mix relative to that of the channels: unrelated channels keep 1 / their number
CANCELLED_SHARE, CANCELLED_S = 0.1, 10.0  # of the audible time, from which it is worth a warning
SILENCE = 1e-8  # mean square up to which a chunk is silent, -80 dB


def read_blocks(
    source: AudioInput,
    *,
    sampling_rate: int = SAMPLING_RATE,
    block_s: float = 30.0,
    array_sampling_rate: int | None = None,
    channel: str | int = MIX,
) -> Iterator[np.ndarray]:
    """Read any audio as consecutive blocks, in memory that does not grow with its length.

    The blocks joined are the same samples whatever `block_s`, and as many as `soxr.resample` makes of the whole.

    Args:
        source: One of
            - a path (`str` or `os.PathLike`, also NumPy's strings; URLs are never fetched);
            - the content of a file as `bytes` or any other buffer of bytes, or a binary file object: read from its
              start, or from where it stands if it cannot seek (then through a temporary file);
            - a 1-D array or tensor of shape `(samples,)` or `(1, samples)`, floating point in [-1, 1] or 8, 16 or 32
              bit integer PCM, which is divided by its type's range (uint8 is centred on 128);
            - `{"array" or "raw": array, "sampling_rate": Hz}`, where the array may also be `(channels, samples)`, as
              torchaudio and torchcodec return it, with at most 32 channels and more samples than channels;
            - what a row of 🤗 datasets holds: such a dictionary with a `path` beside it; `{"bytes", "path"}`, where the
              path counts if there are no bytes; an `AudioDecoder` of datasets or torchcodec; or the row itself, if
              exactly one of its values is one of these.
          Of a video file the default audio stream is read, at the times of the video: where it starts late or has
          gaps, there is silence, and where it overlaps itself, the later part is dropped. A gap of more than an hour,
          or that does not fit in the file's stated duration (more than 10 minutes if none is stated), is taken for a
          damaged timestamp and left out.
        sampling_rate: Hz of the blocks.
        block_s: Seconds per block; the last one is shorter.
        array_sampling_rate: Hz of a bare array; `sampling_rate` if not given, that is 16 kHz by default.
        channel: `"mix"` averages the channels (with a warning where they cancel each other out), a number from 0
            selects one, and `"loudest"` the one with the most energy in the whole input, which is decoded twice.

    Yields:
        float32 arrays of shape `(samples,)`, finite, never empty.

    Raises:
        AudioError: at the first block if the input cannot be opened or holds no audio; after the blocks before it
            if the input is damaged midway or has samples that are NaN or infinite.
    """
    source, name = plain_input(source), describe(source)
    if not block_s > 0:
        raise ValueError(f"`block_s` must be above 0 seconds, got {block_s}.")
    channel = check_channel(channel)
    block_samples = max(1, round(block_s * sampling_rate))
    with ExitStack() as stack:
        if is_array(source):
            array_rate = sampling_rate if array_sampling_rate is None else array_sampling_rate
            samples, rate = _samples_and_rate(source, array_rate, name)
            decode: Callable[..., Iterator[Chunk]] = partial(_array_chunks, samples, rate, name)
        else:
            decode = partial(_decoded, stack.enter_context(_opened(source, name)), name)
        if channel == LOUDEST:
            channel = _loudest_channel(decode(warn=no_warning))
        yield from _blocks(_one_channel(decode(), channel, name), sampling_rate, block_samples, name)


def read_audio(
    source: AudioInput,
    *,
    sampling_rate: int = SAMPLING_RATE,
    array_sampling_rate: int | None = None,
    channel: str | int = MIX,
) -> np.ndarray:
    """The whole of `source` as one float32 array of shape `(samples,)`; inputs and errors as for `read_blocks`."""
    options: dict[str, Any] = {"array_sampling_rate": array_sampling_rate, "channel": channel}
    return np.concatenate(list(read_blocks(source, sampling_rate=sampling_rate, **options)))


def load_audio(
    source: AudioInput,
    sampling_rate: int = SAMPLING_RATE,
    channel: str | int = MIX,
    *,
    array_sampling_rate: int | None = None,
) -> tuple[np.ndarray, int]:
    """
    Loads any audio as one waveform; neither torchaudio nor FFmpeg is needed.

    Args:
        source: As for [`read_blocks`]: a path, the content of a file, a binary file object, an array, or what a row of
            🤗 datasets holds. URLs are not fetched.
        sampling_rate: Hz of the waveform; audio of another rate is resampled.
        channel: `"mix"` averages the channels, a number from 0 selects one, and `"loudest"` the one with the most
            energy.
        array_sampling_rate: Hz of a bare array; `sampling_rate` if not given.

    Returns:
        float32 of shape `(samples,)`, and `sampling_rate`.

    Raises:
        AudioError: in one line, if `source` cannot be read, or if it is damaged midway.
        ValueError: for a `sampling_rate` or `channel` that is not possible.
    """
    check_rate("sampling_rate", sampling_rate)
    if array_sampling_rate is not None:
        check_rate("array_sampling_rate", array_sampling_rate)
    options: dict[str, Any] = {"array_sampling_rate": array_sampling_rate, "channel": channel}
    return read_audio(source, sampling_rate=sampling_rate, **options), sampling_rate


def duration_s(source: Any, *, array_sampling_rate: int | None = None) -> float | None:
    """Seconds of audio as the header has it, nothing decoded; None if it does not say or the input cannot be read."""
    source, name = plain_input(source), describe(source)
    try:
        if is_array(source):
            array_rate = SAMPLING_RATE if array_sampling_rate is None else array_sampling_rate
            samples, rate = _samples_and_rate(source, array_rate, name)
            return samples.shape[1] / rate
        if hasattr(source, "read") and not _can_seek(source):  # reading would consume it
            return None
        with _opened(source, name) as file:
            try:
                sound, _ = open_sound(file)
            except soundfile.SoundFileError:
                with av_container(file, name, "") as container:
                    return stated_end_s(container, av_stream(container))
            with sound:
                if sound.frames >= UNKNOWN_FRAMES or (sound.format == "MP3" and not mp3_states_length(file)):
                    return None
                return sound.frames / sound.samplerate
    except (ValueError, OSError):  # AudioError, and what a broken file object raises
        return None


def native_sampling_rate(source: Any) -> int | None:
    """The sampling rate in Hz that the header of a file states; None if it cannot be read."""
    source, name = plain_input(source), describe(source)
    try:
        with _opened(source, name) as file:
            try:
                sound, _ = open_sound(file)
            except soundfile.SoundFileError:
                with av_container(file, name, "") as container:
                    return int(av_stream(container).rate)
            with sound:
                return int(sound.samplerate)
    except (ValueError, OSError):
        return None


@contextmanager
def sound_file(path: str | os.PathLike) -> Iterator[Any]:
    """
    A file that libsndfile can decode, as an open `soundfile.SoundFile` or, if its header states a wrong size, something
    with the same attributes and `seek` and `read`.

    Raises:
        soundfile.SoundFileError, OSError: if it cannot be opened.
    """
    with open(path, "rb", buffering=0) as file:
        sound, _ = open_sound(file)
        with sound:
            yield sound


def decoded_chunks(source: AudioInput) -> Iterator[Chunk]:
    """
    A file as it is: float32 arrays `(channels, samples)` with their sampling rate in Hz.

    Raises:
        AudioError: if it cannot be opened or decoded, after what could be decoded.
    """
    name = describe(source)
    with _opened(source, name) as file:
        yield from _decoded(file, name)


def walk_audio(folder: str, problems: list[OSError]) -> Iterator[str]:
    """
    Paths of the audio files in a folder, in the order of their names; hidden entries are left out.

    Links to folders are followed, none of them twice. Folders that cannot be listed are added to `problems`.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=problems.append, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS:
                yield os.path.join(parent, name)


# Kinds of input


def plain_input(source: Any) -> Any:
    """
    An input as one of a few types: a path, bytes or a `memoryview` of them, a file object, an array, or a dictionary
    with an array. What is none of the kinds of `read_blocks` stays as it is.
    """
    if isinstance(source, Mapping):
        return _row_input(source if isinstance(source, dict) else dict(source))  # datasets has lazy rows, too
    if hasattr(source, "get_all_samples"):
        return _decoder_input(source)
    if isinstance(source, np.ndarray) and not source.ndim and source.dtype.kind in "OSU":
        source = source.item()
    if isinstance(source, str | bytes | bytearray | os.PathLike | io.IOBase | np.ndarray | np.generic):
        return source
    try:  # mmap, memoryview, array.array, …
        content = memoryview(source)
    except (TypeError, ValueError, BufferError):
        return source
    return content.cast("B") if content.itemsize == 1 and content.c_contiguous else source


def _row_input(source: dict[str, Any]) -> Any:
    """The audio in a dictionary, or the dictionary if it holds an array or no audio."""
    if _holds_array(source):
        return source
    if _is_encoded(source):
        content, path = source.get("bytes"), source.get("path")
        return source if content is None and path is None else path if content is None else content
    values = [value for value in source.values() if _is_audio_value(value)]
    return plain_input(values[0]) if len(values) == 1 else source


def _holds_array(source: Mapping[str, Any]) -> bool:
    return source.get("array", source.get("raw")) is not None


def _is_encoded(source: Mapping[str, Any]) -> bool:
    """Whether it is `{"bytes", "path"}`, as 🤗 datasets stores a file."""
    return ("bytes" in source and source["bytes"] is not None) or (bool(source) and source.keys() <= {"bytes", "path"})


def _is_audio_value(value: Any) -> bool:
    """Whether a value of a row is audio; a text might be anything."""
    if isinstance(value, Mapping):
        return _is_encoded(value) or (_holds_array(value) and "sampling_rate" in value)
    return hasattr(value, "get_all_samples")


def _decoder_input(decoder: Any) -> Any:
    """The encoded file that an `AudioDecoder` of 🤗 datasets carries; of another one the samples."""
    encoded = getattr(decoder, "_hf_encoded", None) or {}
    if encoded.get("bytes") is not None:
        return encoded["bytes"]
    path = encoded.get("path")
    if isinstance(path, str) and os.path.isfile(path):
        return path
    return decoder


def is_single_input(source: Any) -> bool:
    """Whether it is one input, not an iterable of inputs."""
    source = plain_input(source)
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | Mapping) or hasattr(source, "read"):
        return True
    if hasattr(source, "get_all_samples"):
        return True
    if not hasattr(source, "dtype"):
        return False
    return getattr(source.dtype, "kind", None) not in ("O", "S", "U", "T") or source.ndim != 1  # an array of names


def is_array(source: Any) -> bool:
    """Whether a plain input is a waveform."""
    if isinstance(source, str | bytes | bytearray | memoryview | os.PathLike):  # NumPy's strings have a shape, too
        return False
    return isinstance(source, dict) or hasattr(source, "shape") or hasattr(source, "get_all_samples")


def describe(source: Any) -> str:
    """A short printable name of an input, on one line: control characters and bytes that are no text are escaped."""
    if path := _path_beside(source):
        return _shown_path(path)
    source = plain_input(source)
    if isinstance(source, dict) and not source.keys() & {"array", "raw"}:
        return "<row>"
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    if is_array(source):
        return "<array>"
    if hasattr(source, "read"):
        source = getattr(source, "name", None)
        if not isinstance(source, str | bytes | os.PathLike):
            return "<file>"
    if isinstance(source, str | bytes | os.PathLike):
        return _shown_path(source)
    return f"<{type(source).__name__}>"


def _shown_path(path: str | bytes | os.PathLike) -> str:
    text = printable(path)
    if len(text) > 4 * MAX_PATH:  # audio or base64 in place of a path
        return f"{text[:100]}…"
    return text or "''"


def _path_beside(source: Any) -> str | None:
    """The path that what 🤗 datasets holds has beside the audio."""
    if isinstance(source, Mapping):
        path = source.get("path")
        if isinstance(path, str) or _holds_array(source) or _is_encoded(source):
            return path if isinstance(path, str) else None
        values = [value for value in source.values() if _is_audio_value(value)]
        return _path_beside(values[0]) if len(values) == 1 else None
    encoded = getattr(source, "_hf_encoded", None)
    path = encoded.get("path") if isinstance(encoded, dict) else None
    return path if isinstance(path, str) else None


def check_rate(name: str, rate: Any) -> None:
    """Raises an [`OptionError`] if it is not a sampling rate in Hz."""
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not is_number or not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise OptionError(name, rate, f"a number from {MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} (Hz)")


def check_channel(channel: Any) -> str | int:
    """Raises an [`OptionError`] if it is not a `channel` of `read_blocks`."""
    if isinstance(channel, str) and channel in (MIX, LOUDEST):
        return str(channel)
    if isinstance(channel, int | np.integer) and not isinstance(channel, bool) and channel >= 0:
        return int(channel)
    raise OptionError("channel", channel, f"{MIX}, {LOUDEST} or the number of a channel from 0")


# Opening


@contextmanager
def _opened(source: Any, name: str) -> Iterator[BinaryIO]:
    """`source` as a file with a descriptor: decoders in C read that without calling back into Python, where they would
    swallow exceptions and KeyboardInterrupt."""
    with ExitStack() as stack:
        try:
            file = _acquire(source, stack, name)
            empty = not file.seek(0, os.SEEK_END)
            file.seek(0)
        except AudioError:
            raise
        except Exception as error:  # OSError mostly, but a file object may raise anything
            raise AudioError(f"{name}: cannot be opened: {reason_of(error)}") from error
        if empty:
            raise AudioError(f"{name}: holds no audio: the file is empty")
        yield file


def _acquire(source: Any, stack: ExitStack, name: str) -> BinaryIO:
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(open(_regular_file(os.fspath(source), name), "rb", buffering=0))
    if isinstance(source, bytes | bytearray | memoryview):
        copy = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        content = memoryview(source)
        for start in range(0, len(content), 2**20):
            copy.write(content[start : start + 2**20])
        return copy
    if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
        raise AudioError(f"{name}: not audio: expected a path, bytes, a file opened in binary mode, or an array")
    if _can_seek(source):
        stack.callback(source.seek, source.tell())
        source.seek(0)
        raw = getattr(source, "raw", source)
        if isinstance(raw, io.FileIO):
            return raw
    copy = stack.enter_context(tempfile.TemporaryFile(buffering=0))
    shutil.copyfileobj(source, copy, 2**20)
    return copy


def _can_seek(file: Any) -> bool:
    return hasattr(file, "seekable") and file.seekable()


def _regular_file(path: str | bytes, name: str) -> str | bytes:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", os.fsdecode(path)):
        raise AudioError(f"{name}: URLs are not fetched: download it first and pass the file")
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise AudioError(f"{name}: a directory, not an audio file")
    if not stat.S_ISREG(mode):  # opening a FIFO would wait for a writer
        raise AudioError(f"{name}: a pipe, socket or device, not a regular file")
    return path


# Decoding: a file or an array → chunks `(channels, samples)` float32 with their sampling rate


def _decoded(file: BinaryIO, name: str, warn: Warn = logger.warning) -> Iterator[Chunk]:
    try:
        sound, data = open_sound(file)
    except soundfile.SoundFileError as error:
        yield from av_chunks(file, name, reason_of(error), warn)
        return
    with sound:
        if data is not None:
            warn_of_header(name, data, sound, warn)
        frames = yield from soundfile_chunks(sound, name)
        unread = unread_bytes(sound.format, file)
        warn_if_cut(
            name, frames / sound.samplerate, promised_frames(sound, data, file, frames) / sound.samplerate, warn
        )
    if unread:
        seconds = f"{frames / sound.samplerate:.1f} s"
        try:
            rest = av_chunks(file, name, f"which stops after {seconds}", warn, has_timestamps=False)
            yield from _rest(rest, frames)
        except AudioError as error:
            reason = str(error).removeprefix(f"{name}: ")
            warn("%s: only the first %s were read, not the last %d bytes: %s", name, seconds, unread, reason)


def _array_chunks(samples: np.ndarray, rate: float, name: str, warn: Warn = logger.warning) -> Iterator[Chunk]:
    size = chunk_frames(rate, len(samples))
    for start in range(0, samples.shape[1], size):
        yield to_float(samples[:, start : start + size], name), rate


def _samples_and_rate(source: Any, array_sampling_rate: float, name: str) -> tuple[np.ndarray, float]:
    """An array, tensor or dict as `(channels, samples)` of its own type, and its sampling rate in Hz."""
    samples, rate, max_channels = source, array_sampling_rate, 1
    if isinstance(source, dict):
        samples, max_channels = source.get("array", source.get("raw")), MAX_ARRAY_CHANNELS
        rate = source.get("sampling_rate", np.nan)
        if not source.keys() & {"array", "raw", "sampling_rate"}:
            raise AudioError(f"{name}: {_why_no_audio(source)}")
        if samples is None or source.get("sampling_rate") is None:
            given = sorted(str(key) for key, value in source.items() if value is not None)
            raise AudioError(f'{name}: a dict needs "array" (or "raw") and "sampling_rate", got {given}')
    elif hasattr(source, "get_all_samples"):
        try:
            decoded = source.get_all_samples()
        except Exception as error:  # of torchcodec and FFmpeg
            raise AudioError(f"{name}: cannot be decoded: {reason_of(error)}") from error
        samples, rate, max_channels = decoded.data, decoded.sample_rate, MAX_ARRAY_CHANNELS
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu()
        if str(samples.dtype) == "torch.bfloat16":  # which NumPy does not have
            samples = samples.float()
    try:
        samples, rate = np.asarray(samples), float(rate)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"{name}: not an array with a sampling rate: {reason_of(error)}") from error
    shape = samples.shape
    samples = samples[np.newaxis] if samples.ndim == 1 else samples
    if samples.ndim != 2 or len(samples) > max(1, min(max_channels, samples.shape[1])):
        raise AudioError(
            f"{name}: an array of shape {shape}: expected (samples,), or (channels, samples) in a dict "
            f'{{"array": …, "sampling_rate": …}} with at most {MAX_ARRAY_CHANNELS} channels'
        )
    return samples, checked_rate(rate, name)


def _why_no_audio(row: dict[str, Any]) -> str:
    if row and row.keys() <= {"bytes", "path"}:
        return "a row without audio: its bytes and its path are None"
    splits = [key for key, value in row.items() if hasattr(value, "cast_column")]
    if splits:
        return f"the splits of a dataset: pass one, as dataset[{_shown_key(splits[0])}]"
    several = [key for key, value in row.items() if _is_audio_value(value)]
    if several:
        return (
            f"a row with audio in {' and '.join(map(_shown_key, several))}: pass one, as row[{_shown_key(several[0])}]"
        )
    keys = ", ".join(map(_shown_key, row)) or "no keys"
    return (
        f'a dictionary without audio; it has {keys}: pass {{"array", "sampling_rate"}}, {{"bytes", "path"}} or a path'
    )


def _shown_key(key: Any) -> str:
    return repr(printable(key))


# Channels


def _one_channel(chunks: Iterator[Chunk], channel: str | int, name: str) -> Iterator[Chunk]:
    """Mono chunks: the mean of the channels, or one of them."""
    if isinstance(channel, str):
        yield from _mixed(chunks, name)
        return
    for samples, rate in chunks:
        if channel >= len(samples):
            kinds = "1 channel" if len(samples) == 1 else f"{len(samples)} channels"
            raise AudioError(f"{name}: has {kinds}, numbered from 0: there is no channel {channel}")
        yield samples[channel], rate


def _mixed(chunks: Iterator[Chunk], name: str) -> Iterator[Chunk]:
    audible_s = cancelled_s = 0.0
    for samples, rate in chunks:
        with np.errstate(over="ignore", invalid="ignore"):
            mono: Any = samples[0] if len(samples) == 1 else sum(samples) / len(samples)
            if len(samples) > 1 and samples.shape[1]:
                energy = _energies(samples).mean()
                if energy > SILENCE * samples.shape[1]:
                    audible_s += samples.shape[1] / rate
                    cancelled_s += (_energies(mono[np.newaxis])[0] < CANCELLED * energy) * samples.shape[1] / rate
        yield mono, rate
    if cancelled_s and cancelled_s >= min(CANCELLED_SHARE * audible_s, CANCELLED_S):
        logger.warning(
            "%s: the channels cancel each other out for %.1f s: give `channel` (--channel): 0, 1, … or loudest",
            name,
            cancelled_s,
        )


def _loudest_channel(chunks: Iterator[Chunk]) -> int:
    energies = np.zeros(1)
    try:
        for samples, _ in chunks:
            if len(samples) > len(energies):
                energies = np.pad(energies, (0, len(samples) - len(energies)))
            elif len(samples) == len(energies) == 1:
                break
            energies[: len(samples)] += _energies(samples)
    except AudioError:  # what could be decoded decides
        pass
    return int(np.argmax(energies))


def _energies(samples: np.ndarray) -> np.ndarray:
    """Sum of squares of each channel."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.nan_to_num(np.einsum("cs,cs->c", samples, samples, dtype=np.float64), posinf=0.0)


# Chunks → blocks


def _blocks(chunks: Iterator[Chunk], sampling_rate: int, block_samples: int, name: str) -> Iterator[np.ndarray]:
    block, filled, delivered = np.empty(block_samples, np.float32), 0, False
    try:
        for samples in _resampled(_finite(chunks, name), sampling_rate, name):
            while len(samples):
                part = samples[: block_samples - filled]
                block[filled : filled + len(part)] = part
                samples, filled = samples[len(part) :], filled + len(part)
                if filled == block_samples:
                    yield block
                    block, filled, delivered = np.empty(block_samples, np.float32), 0, True
    except AudioError:
        if filled:  # the audio before the damage is not lost
            yield block[:filled]
        raise
    if filled:
        yield block[:filled]
    elif not delivered:
        raise AudioError(f"{name}: holds no audio: it is shorter than one sample at {sampling_rate} Hz")


def _finite(chunks: Iterator[Chunk], name: str) -> Iterator[Chunk]:
    seconds = 0.0
    for samples, rate in chunks:
        finite = np.isfinite(samples)
        if not finite.all():
            seconds += float(np.argmin(finite)) / rate
            raise AudioError(f"{name}: a sample is NaN or infinite (the first one at {seconds:.3f} s)")
        seconds += len(samples) / rate
        yield samples, rate


def _resampled(chunks: Iterator[Chunk], sampling_rate: int, name: str) -> Iterator[np.ndarray]:
    for rate, group in groupby(chunks, key=itemgetter(1)):  # the rate may change between joined files
        if rate == sampling_rate:
            yield from (samples for samples, _ in group)
            continue
        try:
            stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
            for samples in chain((samples for samples, _ in group), [None]):
                last = samples is None
                resampled = stream.resample_chunk(np.empty(0, np.float32) if last else samples, last=last)
                if not np.isfinite(resampled).all():
                    raise AudioError(f"{name}: samples too large to resample")
                yield resampled
        except AudioError:
            raise
        except (RuntimeError, ValueError) as error:
            raise AudioError(f"{name}: cannot be resampled from {rate:g} Hz: {reason_of(error)}") from error


def _rest(chunks: Iterator[Chunk], frames: int) -> Iterator[Chunk]:
    """`chunks` without their first `frames` frames."""
    for samples, rate in chunks:
        if samples.shape[1] > frames:
            yield samples[:, frames:], rate
        frames = max(0, frames - samples.shape[1])
