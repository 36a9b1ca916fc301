# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Playback with sounddevice (PortAudio), the extra `[mic]`."""

from typing import TYPE_CHECKING

from ..messages import clock
from .errors import FAILED, CliError
from .terminal import say

if TYPE_CHECKING:
    from ..clip_files import Part
    from ..embedding_index import Hit


def device_error(error: Exception) -> str:
    """The message of a PortAudio error, without error number and driver details."""
    return str(error.args[0]) if error.args else type(error).__name__


class Speaker:
    """The default output device."""

    def __init__(self) -> None:
        from ..live.microphone import import_sounddevice

        self._sounddevice = import_sounddevice("--play")
        try:
            self._sounddevice.query_devices(None, "output")
        except (ValueError, self._sounddevice.PortAudioError) as error:
            raise CliError("--play: no output device was found", FAILED) from error

    def play(self, part: "Part", rank: int, hit: "Hit") -> None:
        """
        Plays a hit to its end.

        Raises:
            CliError: if playback fails.
            KeyboardInterrupt: at Ctrl-C, which also stops playback.
        """
        say(f"playing {rank}: {hit.file} at {clock(hit.start_s)}; Ctrl-C ends it")
        try:
            self._sounddevice.play(part.samples.astype("float32"), round(part.sampling_rate), blocking=True)
        except self._sounddevice.PortAudioError as error:
            raise CliError(f"--play: {device_error(error)}", FAILED) from error
        except KeyboardInterrupt:
            self._sounddevice.stop()
            raise
