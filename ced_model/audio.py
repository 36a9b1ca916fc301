# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio files, bytes and arrays → blocks of mono float32 at the model's sampling rate, in bounded memory.

libsndfile decodes most formats (wav, flac, ogg, opus, mp3, aiff, …). PyAV decodes the others if the extra `[av]` is
installed (m4a, mp4, webm, …). Damage is always reported. If decoding fails midway, the audio before that point is
yielded, then an `AudioError` with its length is raised. If the length in the header is wrong, the audio in the file is
yielded and a one-line warning is logged.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
    chunk_frames,
    no_warning,
    reason_of,
    to_float,
    warn_if_cut,
)
from .audio_chunks import AudioError as AudioError
from .audio_inputs import AudioInput as AudioInput
from .audio_inputs import can_seek, is_array, opened, plain_input, samples_and_rate
from .audio_inputs import describe as describe
from .audio_inputs import is_single_input as is_single_input
from .av_decoding import av_chunks, av_container, av_stream, stated_end_s
from .messages import OptionError
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

AUDIO_EXTENSIONS = frozenset(
    # libsndfile
    ".wav .wave .bwf .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .au .snd .caf .w64 .rf64 .voc .sph .nist .wve "
    ".xi .avr .paf .pvf .sf .ircam .8svx .iff "
    # PyAV
    ".m4a .m4b .mp4 .m4v .mov .aac .adts .webm .weba .mka .mkv .wma .wmv .asf .avi .flv .amr .3gp .3g2 .ac3 .eac3 .dts "
    ".ts .m2ts .mts .mpg .mpeg .vob .ogv .ape .wv .tta .mpc .tak .ra .rm".split()
)

SAMPLING_RATE = 16000

MIX, LOUDEST = "mix", "loudest"
CANCELLED = 0.01  # energy of the mix relative to the channels; n unrelated channels have 1 / n
CANCELLED_SHARE, CANCELLED_S = 0.1, 10.0  # share and length of the audible time from which to warn
SILENCE = 1e-8  # mean square up to which a chunk is silent, -80 dB


def read_blocks(
    source: AudioInput,
    *,
    sampling_rate: int = SAMPLING_RATE,
    block_s: float = 30.0,
    array_sampling_rate: int | None = None,
    channel: str | int = MIX,
) -> Iterator[np.ndarray]:
    """Reads any audio as consecutive blocks, in bounded memory.

    The samples do not depend on `block_s`; their number is that of `soxr.resample` on the complete audio.

    Args:
        source: One of
            - a path (`str` or `os.PathLike`, also NumPy's strings; URLs are never fetched);
            - the content of a file as `bytes` or another buffer of bytes;
            - a binary file object: read from its start, or, if it cannot seek, from its position (through a temporary
              file);
            - a 1-D array or tensor of shape `(samples,)` or `(1, samples)`, floating point in [-1, 1] or 8, 16 or 32
              bit integer PCM, which is divided by its type's range (uint8 is centred on 128);
            - `{"array" or "raw": array, "sampling_rate": Hz}`, where the array may also be `(channels, samples)`, as
              torchaudio and torchcodec return it, with at most 32 channels and more samples than channels;
            - an audio value of 🤗 datasets: such a dictionary with a `path`; `{"bytes", "path"}`, where the path is
              used if there are no bytes; an `AudioDecoder` of datasets or torchcodec;
            - a row of 🤗 datasets, if exactly one of its values is audio.
          Of a video file, the default audio stream is read, aligned with the video: a late start and gaps become
          silence, and where the stream overlaps itself, the later part is dropped. A gap of more than an hour, or
          longer than the duration in the header (10 minutes if there is none), is treated as a damaged timestamp and
          left out.
        sampling_rate: Sampling rate of the blocks in Hz.
        block_s: Seconds per block; the last one is shorter.
        array_sampling_rate: Sampling rate of a bare array in Hz, by default `sampling_rate`.
        channel: `"mix"` averages the channels (with a warning if they cancel each other out), a number from 0 selects
            one, and `"loudest"` the one with the most energy, for which the input is decoded twice.

    Yields:
        float32 arrays of shape `(samples,)`, finite, never empty.

    Raises:
        AudioError: before the first block if the input cannot be opened or contains no audio; after the blocks before
            it if the input is damaged midway or has samples that are NaN or infinite.
    """
    source, name = plain_input(source), describe(source)
    if not block_s > 0:
        raise ValueError(f"`block_s` must be above 0 seconds, got {block_s}.")
    channel = check_channel(channel)
    block_samples = max(1, round(block_s * sampling_rate))
    with ExitStack() as stack:
        if is_array(source):
            array_rate = sampling_rate if array_sampling_rate is None else array_sampling_rate
            samples, rate = samples_and_rate(source, array_rate, name)
            decode: Callable[..., Iterator[Chunk]] = partial(_array_chunks, samples, rate, name)
        else:
            decode = partial(_decoded, stack.enter_context(opened(source, name)), name)
        if channel == LOUDEST:
            channel = loudest_channel(decode(warn=no_warning))
        yield from _blocks(_one_channel(decode(), channel, name), sampling_rate, block_samples, name)


def read_audio(
    source: AudioInput,
    *,
    sampling_rate: int = SAMPLING_RATE,
    array_sampling_rate: int | None = None,
    channel: str | int = MIX,
) -> np.ndarray:
    """Reads `source` as one float32 array of shape `(samples,)`. Arguments and errors are those of [`read_blocks`]."""
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
    Loads any audio as one waveform, without torchaudio or FFmpeg.

    Args:
        source: A path, the bytes of a file, a binary file object, an array, or an audio value or row of
            🤗 datasets. URLs are not fetched.
        sampling_rate: Sampling rate of the waveform in Hz; audio is resampled to it.
        channel: `"mix"` averages the channels, a number from 0 selects one, and `"loudest"` the one with the most
            energy.
        array_sampling_rate: Sampling rate of a bare array in Hz, by default `sampling_rate`.

    Returns:
        float32 of shape `(samples,)`, and `sampling_rate`.

    Raises:
        AudioError: if `source` cannot be read, or is damaged midway.
        ValueError: for an invalid `sampling_rate` or `channel`.
    """
    check_rate("sampling_rate", sampling_rate)
    if array_sampling_rate is not None:
        check_rate("array_sampling_rate", array_sampling_rate)
    options: dict[str, Any] = {"array_sampling_rate": array_sampling_rate, "channel": channel}
    return read_audio(source, sampling_rate=sampling_rate, **options), sampling_rate


def duration_s(source: Any, *, array_sampling_rate: int | None = None) -> float | None:
    """Length of the audio in seconds according to its header; None if it is not in the header, or unreadable."""
    source, name = plain_input(source), describe(source)
    if is_array(source):
        with suppress(AudioError):
            array_rate = SAMPLING_RATE if array_sampling_rate is None else array_sampling_rate
            samples, rate = samples_and_rate(source, array_rate, name)
            return samples.shape[1] / rate
        return None

    def of_sound(sound: Any, file: BinaryIO) -> float | None:
        if sound.frames >= UNKNOWN_FRAMES or (sound.format == "MP3" and not mp3_states_length(file)):
            return None
        return sound.frames / sound.samplerate

    return _stated(source, of_sound, stated_end_s)


def native_sampling_rate(source: Any) -> int | None:
    """Sampling rate in Hz according to the header of a file; None if it cannot be read."""
    return _stated(source, lambda sound, _: int(sound.samplerate), lambda _, stream: int(stream.rate))


def _stated(source: Any, of_sound: Callable[[Any, BinaryIO], Any], of_stream: Callable[[Any, Any], Any]) -> Any:
    """A value from the header of a file, by libsndfile or else by PyAV; None if it cannot be read."""
    source, name = plain_input(source), describe(source)
    try:
        if hasattr(source, "read") and not can_seek(source):  # reading would consume it
            return None
        with opened(source, name) as file:
            try:
                sound, _ = open_sound(file)
            except soundfile.SoundFileError:
                with av_container(file, name, "") as container:
                    return of_stream(container, av_stream(container))
            with sound:
                return of_sound(sound, file)
    except (ValueError, OSError):  # AudioError, or an error of a broken file object
        return None


@contextmanager
def sound_file(path: str | os.PathLike) -> Iterator[Any]:
    """
    Opens a file that libsndfile can decode, as a `soundfile.SoundFile` or, if the size in its header is wrong, an
    object with the same attributes, `seek` and `read`.

    Raises:
        soundfile.SoundFileError, OSError: if it cannot be opened.
    """
    with open(path, "rb", buffering=0) as file:
        sound, _ = open_sound(file)
        with sound:
            yield sound


def decoded_chunks(source: AudioInput) -> Iterator[Chunk]:
    """
    Decodes a file without mixing or resampling: float32 arrays `(channels, samples)` and their sampling rate in Hz.

    Raises:
        AudioError: if it cannot be opened, or after the chunks before the point where decoding fails.
    """
    name = describe(source)
    with opened(source, name) as file:
        yield from _decoded(file, name)


def is_audio_name(path: str) -> bool:
    """Whether the extension is that of an audio or video file."""
    return os.path.splitext(path)[1].lower() in AUDIO_EXTENSIONS


def walk_audio(folder: str, problems: list[OSError]) -> Iterator[str]:
    """Paths of the audio files in a folder; errors of folders that cannot be listed are added to `problems`."""
    return filter(is_audio_name, walk_files(folder, problems.append))


def walk_files(folder: str, on_error: Callable[[OSError], object] | None = None) -> Iterator[str]:
    """
    Paths of the files in a folder and its subfolders, sorted by name, without hidden ones. Links to folders are
    followed, but only once each.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))


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
            rest = av_chunks(file, name, f"it stops after {seconds}", warn, has_timestamps=False)
            yield from _rest(rest, frames)
        except AudioError as error:
            reason = str(error).removeprefix(f"{name}: ")
            warn("%s: only the first %s were read; the last %d bytes cannot be read: %s", name, seconds, unread, reason)


def _array_chunks(samples: np.ndarray, rate: float, name: str, warn: Warn = logger.warning) -> Iterator[Chunk]:
    size = chunk_frames(rate, len(samples))
    for start in range(0, samples.shape[1], size):
        yield to_float(samples[:, start : start + size], name), rate


# Channels


def check_rate(name: str, rate: Any) -> None:
    """Raises an [`OptionError`] unless `rate` is a possible sampling rate in Hz."""
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not is_number or not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise OptionError(name, rate, f"a number from {MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} (Hz)")


def check_channel(channel: Any) -> str | int:
    """Returns the `channel` argument of [`read_blocks`], or raises an [`OptionError`]."""
    if isinstance(channel, str) and channel in (MIX, LOUDEST):
        return str(channel)
    if isinstance(channel, int | np.integer) and not isinstance(channel, bool) and channel >= 0:
        return int(channel)
    raise OptionError("channel", channel, f"{MIX}, {LOUDEST} or the number of a channel from 0")


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


def loudest_channel(chunks: Iterator[Chunk]) -> int:
    """Index of the channel with the most energy in chunks `(channels, samples)`."""
    energies = np.zeros(1)
    try:
        for samples, _ in chunks:
            if len(samples) > len(energies):
                energies = np.pad(energies, (0, len(samples) - len(energies)))
            elif len(samples) == len(energies) == 1:
                break
            energies[: len(samples)] += _energies(samples)
    except AudioError:  # use the part that could be decoded
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
        if filled:  # yield the audio before the damage
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
