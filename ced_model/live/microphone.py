# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Microphones with sounddevice (PortAudio)."""

import socket
import time
from types import ModuleType
from typing import Any

import numpy as np

from ..messages import RunError, one_line
from .sources import BLOCK_S, LiveSource, LostError

INSTALL_MIC = "pip install sounddevice"
OVERFLOW = "the sound card lost audio because the computer was busy"
SILENCE_S = 5.0  # without a block, after which the microphone is considered lost


class Microphone(LiveSource):
    """A microphone. After it was unplugged, it is found again by name."""

    def __init__(self, sounddevice: ModuleType, device: dict[str, Any]) -> None:
        super().__init__(socket.gethostname(), f"microphone {device['name']!r}")
        self.rate = int(device["default_samplerate"])
        self._sounddevice, self._device = sounddevice, device
        self._last_s: float | None = None  # time of the last block
        self._was_opened = False

    def receive(self) -> None:
        try:
            if self._was_opened:
                self._find_again()
            self._was_opened, self._last_s = True, time.monotonic()
            with self._sounddevice.InputStream(
                samplerate=self.rate,
                blocksize=round(BLOCK_S * self.rate),
                device=self._device["index"],
                channels=1,
                dtype="float32",
                callback=self._receive,
            ):
                while not self._ended.wait(min(0.1, SILENCE_S)):
                    if time.monotonic() - self._last_s > SILENCE_S:
                        raise LostError(f"no audio for {SILENCE_S:g} s")
        except (self._sounddevice.PortAudioError, ValueError) as error:
            raise LostError(reason(error)) from error

    def _find_again(self) -> None:
        """Finds the device by name. PortAudio is restarted, since it lists devices only at start."""
        for step in ("_terminate", "_initialize"):
            getattr(self._sounddevice, step, lambda: None)()
        self._device = self._sounddevice.query_devices(self._device["name"], "input")

    def _receive(self, samples: np.ndarray, frames: int, times: Any, status: Any) -> None:
        """Callback in the thread of PortAudio. `samples` of shape `(frames, 1)` are valid only during the call."""
        self._last_s = time.monotonic()
        if not self._ended.is_set():
            self.put(samples[:, 0].copy(), self.rate, OVERFLOW if status.input_overflow else "")


def import_sounddevice(purpose: str = "listening") -> ModuleType:
    """Imports sounddevice. Raises a `RunError` if it or PortAudio is not installed."""
    try:
        import sounddevice
    except ImportError as error:
        raise RunError(f"{purpose} requires sounddevice: {INSTALL_MIC}") from error
    except OSError as error:  # the package is installed, but PortAudio is not
        raise RunError(
            f"{error}; install PortAudio (Debian, Ubuntu: libportaudio2; Fedora: portaudio; Homebrew: portaudio)"
        ) from error
    return sounddevice


def microphone_lines(sounddevice: ModuleType) -> list[str]:
    """A line for each microphone. The default one has a star."""
    devices = [device for device in sounddevice.query_devices() if device["max_input_channels"] > 0]
    if not devices:
        raise RunError("no microphone was found")
    default = sounddevice.default.device[0]
    return [
        f"{'*' if device['index'] == default else ' '}{device['index']:3}  {device['name']}"
        f"  {device['default_samplerate']:g} Hz"
        for device in devices
    ]


def find_microphone(sounddevice: ModuleType, wanted: str | None) -> Microphone:
    """The microphone with this index or name, by default that of the system."""
    index_or_name = int(wanted) if wanted is not None and wanted.isdecimal() else wanted
    try:
        return Microphone(sounddevice, sounddevice.query_devices(index_or_name, "input"))
    except (ValueError, sounddevice.PortAudioError) as error:
        if wanted is not None:
            raise RunError(f"--input-device {wanted}: {reason(error)}; see --list-devices") from error
        raise RunError("no microphone was found") from error


def reason(error: Exception) -> str:
    """The message of a PortAudio error, without error number and driver details."""
    return one_line(error.args[0]) if error.args else type(error).__name__
