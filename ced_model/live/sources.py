# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Live sources: audio that arrives in a separate thread, with losses and reconnections."""

import os
import queue
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..audio import decoded_chunks
from ..audio_chunks import AudioError, Chunk, checked_rate, reason_of, to_float
from ..audio_inputs import describe
from ..messages import OptionError, RunError, printable
from ..packages import require
from .addresses import HIDDEN, Address, parse_address

STANDARD_INPUT = "-"
SCHEMES = ("http", "https", "rtsp", "rtsps")
PROTOCOLS = {  # allowed in FFmpeg; without `file`, playlists cannot read local files
    "http": "http,https,httpproxy,tcp,tls,crypto",
    "rtsp": "rtsp,rtsps,rtp,rtcp,srtp,udp,tcp,tls,http,https,httpproxy",
    "pipe": "pipe",
}
QUEUE_S = 30.0  # maximum audio in the queue for the model
BLOCK_S = 0.1  # length of the blocks of sound cards and files
TIMEOUT_S = 10.0  # without data, after which a connection is considered lost
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 60.0  # between attempts to connect
MAX_PEAK = 10.0
TOO_SLOW = "the model is slower than the audio: use a longer --hop or a smaller model"

Report = Callable[[str], object]


class Block(NamedTuple):
    samples: np.ndarray  # mono float32 of shape (samples,); may be empty after a gap
    rate: int
    time: float  # arrival of its end, in seconds since the epoch
    gap: str  # the reason for lost audio before it, or empty


class LostError(Exception):
    """A source was lost. The message is the reason in one line."""


class LiveSource:
    """
    A source of audio in real time. Subclasses implement `receive`.

    Args:
        name: Short name for topics, files and events.
        shown: Name in messages.
        reconnects: Whether the source is opened again after a loss.
        drops: Whether audio is dropped if the model is too slow. Otherwise the source waits.

    Attributes:
        heard_until: Arrival of the last block used, in seconds since the epoch.
        taken_s: Seconds of audio used since the last gap.
        position_s: Seconds of audio used before the last gap.
        gap: The reason for the end of the last `blocks_until_gap`.
        is_over: Whether the source has ended.
        is_lost: Whether the source is reconnecting.
        report: Called with lines about losses and reconnections.
    """

    def __init__(self, name: str, shown: str, *, reconnects: bool = True, drops: bool = True) -> None:
        self.name, self.shown, self.reconnects = name, shown, reconnects
        self.heard_until = time.time()
        self.taken_s = self.position_s = 0.0
        self.gap = ""
        self.is_over = self.is_lost = False
        self.report: Report = print
        self._drops = drops
        self._blocks: queue.Queue[Block | None] = queue.Queue(maxsize=round(QUEUE_S / BLOCK_S))
        self._has_lost_block = False
        self._next: Block | None = None
        self._rate = 0
        self._error: Exception | None = None
        self._lost_at: float | None = None
        self._has_audio = False  # in this connection
        self._ended = threading.Event()

    def receive(self) -> None:
        """Opens the source and calls `put` until it ends. Raises a [`LostError`] if it is lost."""
        raise NotImplementedError

    @contextmanager
    def opened(self) -> Iterator[None]:
        """A context in which the source delivers audio."""
        thread = threading.Thread(target=self._run, name="audio", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(1.0)  # if it waits for a server, it ends with the process

    def put(self, samples: np.ndarray, rate: int, gap: str = "") -> None:
        """Adds mono float32 samples of shape `(samples,)` to the queue."""
        if self._ended.is_set():
            raise LostError("it is closed")
        if self._lost_at is not None:
            self.report(f"{self.shown}: audio again after {time.time() - self._lost_at:.0f} s")
            self._lost_at = None
        self._has_audio = True
        if self._has_lost_block and not self._blocks.empty():
            return  # a few long gaps lose less context than many short ones
        block = Block(samples, rate, time.time(), TOO_SLOW if self._has_lost_block else gap)
        self._has_lost_block = not self._hand_over(block)

    def _hand_over(self, block: Block | None) -> bool:
        while not self._ended.is_set():
            try:
                self._blocks.put(block, timeout=0 if self._drops and block else 0.5)
                return True
            except queue.Full:
                if self._drops and block:
                    return False
        return True

    def _run(self) -> None:
        """The thread: reconnects with increasing delays, and reports each loss once."""
        delay_s, was_connected = FIRST_DELAY_S, False
        while not self._ended.is_set():
            self._has_audio, started = False, time.monotonic()
            reason = "the stream ended"
            try:
                self.receive()
                if not self.reconnects:
                    break
            except LostError as error:
                reason = str(error)
                if not self.reconnects or not (was_connected or self._has_audio):
                    self._error = RunError(f"{self.shown}: {reason}")
                    break
            except Exception as error:  # a bug; it is raised again in the main thread
                self._error = error
                break
            if self._ended.is_set():
                return
            was_connected = was_connected or self._has_audio
            if self._lost_at is None:
                self._lost_at = time.time()
                self.report(f"{self.shown}: {reason}; connecting again")
                self._hand_over(Block(np.zeros(0, np.float32), 0, time.time(), reason))
            if time.monotonic() - started > MAX_DELAY_S:
                delay_s = FIRST_DELAY_S
            self._ended.wait(delay_s)
            delay_s = min(2 * delay_s, MAX_DELAY_S)
        self._hand_over(None)

    def blocks_until_gap(self) -> Iterator[dict[str, Any]]:
        """Yields consecutive blocks with their `sampling_rate`, until audio was lost."""
        self.position_s, self.taken_s = self.position_s + self.taken_s, 0.0
        if self._next is not None and len(self._next.samples):
            yield self._taken(self._next)
        self._next = None
        while True:
            try:
                block = self._blocks.get(timeout=1.0)  # allows Ctrl-C
            except queue.Empty:
                continue
            if block is None:
                self.is_over = True
                if self._error is not None:
                    raise self._error
                return
            gap = block.gap
            if not gap and self.taken_s and block.rate != self._rate:
                gap = f"the stream changed its sampling rate from {self._rate} to {block.rate} Hz"
            self.is_lost = not len(block.samples)
            if gap and (self.taken_s or self.is_lost):
                self._next, self.gap = block, gap
                return
            yield self._taken(block)

    def _taken(self, block: Block) -> dict[str, Any]:
        self.heard_until, self._rate = block.time, block.rate
        self.taken_s += len(block.samples) / block.rate
        return {"array": block.samples, "sampling_rate": block.rate}

    def time_of(self, place_s: float) -> float:
        """The time, since the epoch, of a place in seconds after the last gap, corrected for inexact source clocks."""
        return self.heard_until - self.taken_s + place_s


class Recording(LiveSource):
    """A file, delivered in real time."""

    def __init__(self, path: str) -> None:
        stem = os.path.splitext(os.path.basename(path))[0]
        super().__init__(stem, repr(printable(path)), reconnects=False, drops=False)
        self._path = path

    def receive(self) -> None:
        start, delivered_s = time.monotonic(), 0.0
        try:
            for samples, rate in decoded_chunks(self._path):
                for block in np.array_split(samples, max(1, round(samples.shape[1] / rate / BLOCK_S)), axis=1):
                    delivered_s += block.shape[1] / rate
                    if self._ended.wait(max(0.0, start + delivered_s - time.monotonic())):
                        return
                    self.put(mono(block), round(rate))
        except (AudioError, OSError) as error:
            raise LostError(reason_of(error).removeprefix(f"{describe(self._path)}: ")) from error


class AvStream(LiveSource):
    """A URL or pipe, opened with PyAV (FFmpeg)."""

    def __init__(self, name: str, shown: str, address: Address | None = None, pipe: str = STANDARD_INPUT) -> None:
        require(("av",), f"listening to {shown}")
        is_pipe = address is None
        super().__init__(name, shown, reconnects=not is_pipe, drops=not is_pipe)
        self._address, self._pipe = address, pipe

    def receive(self) -> None:
        import av

        try:
            with self._open(av) as container:
                if not container.streams.audio:
                    raise LostError("it has no audio stream")
                if container.duration and self._address and self._address.scheme.startswith("http"):
                    self.reconnects = self._drops = False  # a file with an end
                for samples, rate in joined(frames(container, av)):
                    self.put(samples, round(checked_rate(rate, self.shown)))
        except (av.FFmpegError, OSError, ValueError, AudioError) as error:
            raise LostError(self._reason(error, av)) from error

    def _open(self, av: Any) -> Any:
        if self._address is None:
            descriptor = 0 if self._pipe == STANDARD_INPUT else os.open(self._pipe, os.O_RDONLY)
            return av.open(f"pipe:{descriptor}", metadata_errors="replace", options=options_of("pipe"))
        address = self._address
        timeout = (TIMEOUT_S, TIMEOUT_S)  # for opening, and between two packets
        return av.open(
            with_credentials(address), metadata_errors="replace", options=options_of(address.scheme), timeout=timeout
        )

    def _reason(self, error: Exception, av: Any) -> str:
        if isinstance(error, av.error.ExitError | av.error.TimeoutError):
            return f"no audio for {TIMEOUT_S:g} s"
        reason = reason_of(error)
        if reason.startswith("Server returned 4XX"):  # FFmpeg's text for other statuses
            reason = "the server refuses the request; the stream may have no audio track"
        return self._address.hide(reason) if self._address else reason


def frames(container: Any, av: Any) -> Iterator[Chunk]:
    """Yields decoded audio `(channels, samples)`. Damaged packets are skipped."""
    for packet in container.demux(container.streams.audio[0]):
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            continue
        for frame in decoded:
            samples = frame.to_ndarray()
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            # Some codecs decode damaged packets to NaN, or to samples that are far too loud.
            yield np.nan_to_num(to_float(samples, "the stream")).clip(-MAX_PEAK, MAX_PEAK), frame.sample_rate


def joined(chunks: Iterable[Chunk]) -> Iterator[tuple[np.ndarray, float]]:
    """Joins short chunks to mono blocks of at least `BLOCK_S`, each with one sampling rate."""
    waiting: list[np.ndarray] = []
    rate = 0.0
    for samples, next_rate in chunks:
        if waiting and (next_rate != rate or sum(map(len, waiting)) >= BLOCK_S * rate):
            yield np.concatenate(waiting), rate
            waiting.clear()
        rate = next_rate
        waiting.append(mono(samples))
    if waiting:
        yield np.concatenate(waiting), rate


def options_of(scheme: str) -> dict[str, str]:
    """FFmpeg's options for a URL."""
    if scheme.startswith("rtsp"):  # only the audio of a camera, by TCP to avoid lost packets
        options = {"rtsp_transport": "tcp", "allowed_media_types": "audio"}
        return options | {"protocol_whitelist": PROTOCOLS["rtsp"]}
    return {"protocol_whitelist": PROTOCOLS[scheme.removesuffix("s")]}


def with_credentials(address: Address) -> str:
    """The URL with encoded credentials, for FFmpeg."""
    if address.user is None:
        return address.url
    from urllib.parse import quote

    userinfo = quote(address.user, safe="") + (f":{quote(address.password, safe='')}" if address.password else "")
    return address.url.replace("://", f"://{userinfo}@", 1)


def mono(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels."""
    return samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)


def open_source(source: str) -> LiveSource:
    """
    The source for a text: `-` for standard input, a URL, a named pipe, or a file.

    Raises:
        OptionError: for another text. The message has no credentials.
        MissingPackageError: if PyAV is required and not installed.
    """
    if source == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise OptionError("source", source, "audio on standard input, not a terminal")
        return AvStream("stdin", "standard input")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        address = parse_address("source", source, SCHEMES)
        return AvStream(address.host, address.shown, address)
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        shown = HIDDEN if "@" in source else printable(source)  # it may be a URL without scheme
        raise OptionError("source", shown, "a file, a URL such as rtsp://…, or - for standard input") from None
    if stat.S_ISFIFO(mode):
        return AvStream(os.path.basename(source), repr(printable(source)), pipe=source)
    if not stat.S_ISREG(mode):
        raise OptionError("source", printable(source), "a file, not a folder or device")
    return Recording(source)
