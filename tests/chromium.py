# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Chromium for the tests marked `browser`, with a microphone that delivers a recording."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile
from playwright.sync_api import Browser, Page, sync_playwright

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
RESOURCES = Path(__file__).parents[1] / "resources"
TIMEOUT_MS = 120_000  # for a busy machine


@contextmanager
def start_chromium(folder: Path) -> Iterator[Browser]:
    """Starts Chromium with a microphone that repeats the tabla, from a file in `folder`."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert program is not None, "these tests drive Chromium: apt-get install chromium, or name it in $CHROMIUM"
    heard = folder / "heard.wav"
    samples, rate = soundfile.read(RESOURCES / "loop_tabla.flac")
    soundfile.write(heard, samples.mean(axis=1), rate, "PCM_16")
    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}",
    ]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=arguments)
        yield chromium
        chromium.close()


def take(page: Page, size: str, name: str) -> None:
    """A screenshot of the complete page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}_{size}.png", full_page=True)
