# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Uploaded files and the server for tests of the demo."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import gradio
import numpy as np
import soundfile

from ced_model.demo import Limits, start
from ced_model.demo.models import Models

RESOURCES = Path(__file__).parents[1] / "resources"
MICRO = Path(__file__).parent / "golden" / "micro_hub"
LIMITS = Limits(megabytes=2, minutes=0.5)

# The message shown for each file of `make_bad_files`.
COMPLAINTS = {
    "broken.wav": "broken.wav could not be read as audio",
    "empty.mp3": "empty.mp3 could not be read as audio: holds no audio: the file is empty. Please try another file.",
    "silent.wav": "silent.wav is silent. Was the microphone muted?",
    "mute.mp4": "mute.mp4 could not be read as audio: holds no audio: the file has no audio stream",
    "long.wav": "long.wav is too long. The limit is 0.5 minutes",
}


@contextmanager
def serve(*models: str | Path) -> Iterator[gradio.Blocks]:
    app = start(Models(map(str, models or [MICRO])), LIMITS)
    try:
        yield app
    finally:
        app.close(verbose=False)


def make_bad_files(folder: Path) -> dict[str, Path]:
    """Makes a file for each of `COMPLAINTS`, and `large.wav`, which is larger than the limit."""
    rng = np.random.default_rng(0)
    (folder / "broken.wav").write_bytes(b"RIFF" + rng.bytes(5000))
    (folder / "empty.mp3").write_bytes(b"")
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "long.wav", rng.normal(scale=0.1, size=31 * 8000), 8000)
    soundfile.write(folder / "large.wav", rng.normal(scale=0.1, size=(1_200_000, 1)), 48000, "PCM_16")
    make_mute_video(folder / "mute.mp4")
    return {name: folder / name for name in (*COMPLAINTS, "large.wav")}


def make_mute_video(path: Path) -> None:
    """Makes a video of a second without audio."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
