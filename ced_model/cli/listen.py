# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced listen`: the tags of a microphone's audio, live."""

import queue
import time
from collections.abc import Iterator
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .finding import choosing, parse_limits
from .model import load_tagger
from .playing import device_error, import_sounddevice
from .terminal import put, say

if TYPE_CHECKING:
    import numpy as np

    from ..tagger import AudioTagger

BLOCK_S = 0.1  # that the sound card delivers at a time
QUEUE_S = 30.0  # of audio that may wait for the model
OVERFLOW = "the sound card lost audio, since the computer was busy"
TOO_SLOW = "the model is slower than the audio; try a longer --hop or a smaller model"
SILENCE_S = 5.0  # without a block, after which the microphone counts as lost


class Block(NamedTuple):
    samples: "np.ndarray"  # float32 of shape (samples,)
    time: float  # when it had come in, in seconds since the epoch
    gap: str  # why audio before it was lost, or empty


@one_line_errors
def listen(
    model: options.Model = None,
    window_s: options.Window = None,
    hop_s: options.Hop = None,
    top_k: options.TopK = None,
    threshold: options.Threshold = None,
    threshold_file: options.ThresholdFile = None,
    labels: options.Labels = None,
    exclude: options.Exclude = None,
    label_map: options.LabelMap = None,
    events: Annotated[bool, typer.Option("--events", help="Print events once they are over.")] = False,
    off_threshold: options.OffThreshold = None,
    smooth_s: Annotated[
        float | None,
        typer.Option(
            "--smooth", metavar="SECONDS", help="Smooth scores over this time; lines are delayed by half of it."
        ),
    ] = None,
    smoothing: options.Smoothing = None,
    min_duration_s: options.MinDuration = None,
    merge_gap_s: options.MergeGap = None,
    max_duration_s: options.MaxDuration = None,
    input_device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Index or name of the microphone; see --list-devices.")
    ] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="Show the microphones and exit.")] = False,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
) -> None:
    """Tag a microphone's audio live.

    Prints a line for each window, until Ctrl-C: the local time at its end, and its tags. Windows without tags, where a
    threshold or classes are given, have no line. With --events, prints the local times of onset and offset, the peak
    and the class of each event. If audio is lost, a line on stderr reports it and a new stream begins.
    """
    finding = options.given(off_threshold=off_threshold, min_duration_s=min_duration_s)
    finding |= options.given(merge_gap_s=merge_gap_s, max_duration_s=max_duration_s)
    options.refuse("" if events else "needs --events", **finding)
    options.refuse("has no meaning with --events" if events else "", top_k=top_k)
    sounddevice = import_sounddevice("listening")
    if list_devices:
        _print_devices(sounddevice)
        return
    microphone = Microphone(sounddevice, _find_device(sounddevice, input_device))
    tagger = load_tagger(model, engine=engine, compute_type=compute_type)
    from ..audio import AudioError

    tagging = options.given(window_s=window_s, hop_s=hop_s, smooth_s=smooth_s, smoothing=smoothing)
    tagging |= choosing(labels, exclude, label_map)
    tagging |= finding | parse_limits(threshold, threshold_file, labels, events) | options.given(top_k=top_k)
    try:
        # Impossible options are refused before the microphone opens.
        list(tagger.stream_events([], **tagging) if events else tagger.stream([], **tagging))
        with microphone.opened():
            say(f"listening to {microphone.name!r} at {microphone.rate} Hz; Ctrl-C ends it")
            while True:
                if events:
                    _print_events(tagger, microphone, tagging)
                else:
                    _print_tags(tagger, microphone, tagging)
                say(f"ced: {_local_time(microphone.heard_until)} gap: {microphone.gap}")
    except KeyboardInterrupt:
        pass  # the way to end it
    except (AudioError, sounddevice.PortAudioError) as error:
        raise CliError(f"microphone {microphone.name!r}: {device_error(error)}", FAILED) from error


def _print_tags(tagger: "AudioTagger", microphone: "Microphone", tagging: dict[str, Any]) -> None:
    """Until audio is lost."""
    blocks = microphone.blocks_until_gap()
    for update in tagger.stream(blocks, sampling_rate=microphone.rate, **tagging):
        if update.tags:
            tags = ", ".join(f"{tag.label} {tag.score:.2f}" for tag in update.tags)
            put(f"{_local_time(microphone.time_of(update.end_s))}  {tags}")


def _print_events(tagger: "AudioTagger", microphone: "Microphone", tagging: dict[str, Any]) -> None:
    blocks = microphone.blocks_until_gap()
    for event in tagger.stream_events(blocks, sampling_rate=microphone.rate, **tagging):
        onset, offset = (_local_time(microphone.time_of(place_s)) for place_s in event[:2])
        put(f"{onset} – {offset.partition(' ')[2]}  {event.peak:.2f}  {event.label}")


class Microphone:
    """
    Audio of a sound card, which delivers it in a thread of its own whether or not anybody takes it.

    Attributes:
        name: of the device.
        rate: its sampling rate in Hz.
        heard_until: when the last block that was taken had come in, in seconds since the epoch.
        taken_s: seconds of audio that were taken since the last gap.
        gap: why the last `blocks_until_gap` ended.
    """

    def __init__(self, sounddevice: ModuleType, device: dict[str, Any]) -> None:
        self.name: str = device["name"]
        self.rate = int(device["default_samplerate"])
        self.heard_until = time.time()
        self.taken_s = 0.0
        self.gap = ""
        self._sounddevice = sounddevice
        self._index: int = device["index"]
        self._blocks: queue.Queue[Block] = queue.Queue(maxsize=round(QUEUE_S / BLOCK_S))
        self._has_lost_block = False
        self._after_gap: Block | None = None

    def opened(self) -> Any:
        """The running stream of sounddevice, a context that ends it."""
        return self._sounddevice.InputStream(
            samplerate=self.rate,
            blocksize=round(BLOCK_S * self.rate),
            device=self._index,
            channels=1,
            dtype="float32",
            callback=self._receive,
        )

    def _receive(self, samples: "np.ndarray", frames: int, times: Any, status: Any) -> None:
        """Called by the sound card's thread: `samples` of shape `(frames, 1)` are only valid meanwhile."""
        if self._has_lost_block and not self._blocks.empty():
            return  # a long gap now and then loses less context than many short ones
        gap = TOO_SLOW if self._has_lost_block else OVERFLOW if status.input_overflow else ""
        try:
            self._blocks.put_nowait(Block(samples[:, 0].copy(), time.time(), gap))
            self._has_lost_block = False
        except queue.Full:
            self._has_lost_block = True

    def blocks_until_gap(self) -> Iterator["np.ndarray"]:
        """Consecutive blocks of shape `(samples,)`, ending where audio was lost."""
        self.taken_s = 0.0
        if self._after_gap is not None:
            yield self._taken(self._after_gap)
        while True:
            try:
                block = self._blocks.get(timeout=SILENCE_S)
            except queue.Empty:
                raise CliError(f"microphone {self.name!r}: no audio for {SILENCE_S:g} s", FAILED) from None
            if block.gap:
                self._after_gap, self.gap = block, block.gap
                return
            yield self._taken(block)

    def _taken(self, block: Block) -> "np.ndarray":
        self.heard_until = block.time
        self.taken_s += len(block.samples) / self.rate
        return block.samples

    def time_of(self, place_s: float) -> float:
        """When it was `place_s` seconds after the last gap: the clocks of sound cards are not exact for hours."""
        return self.heard_until - self.taken_s + place_s


def _print_devices(sounddevice: ModuleType) -> None:
    devices = [device for device in sounddevice.query_devices() if device["max_input_channels"] > 0]
    if not devices:
        raise CliError("no microphone was found", FAILED)
    default = sounddevice.default.device[0]
    for device in devices:
        mark = "*" if device["index"] == default else " "
        put(f"{mark}{device['index']:3}  {device['name']}  {device['default_samplerate']:g} Hz")


def _find_device(sounddevice: ModuleType, wanted: str | None) -> dict[str, Any]:
    index_or_name = int(wanted) if wanted is not None and wanted.isdecimal() else wanted
    try:
        return sounddevice.query_devices(index_or_name, "input")
    except (ValueError, sounddevice.PortAudioError) as error:
        if wanted is not None:
            raise CliError(f"--input-device {wanted}: {device_error(error)}; see --list-devices", FAILED) from error
        raise CliError("no microphone was found", FAILED) from error


def _local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds")[:-2]
