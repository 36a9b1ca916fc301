# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Sizes of an exported page, and its speed in Chromium on one thread, from a plain server: `measure.py FOLDER`."""

import argparse
import functools
import gzip
import json
import shutil
import statistics
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import Browser, expect, sync_playwright

AUDIO_S = 60
ROUNDS = 3
ONLY_WEBGPU = ("webgpu", "asyncify")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    options = parser.parse_args()
    raw, packed = measure_sizes(options.folder)
    print(f"size: {raw / 1e6:.1f} MB, {packed / 1e6:.1f} MB compressed")
    handler = functools.partial(QuietHandler, directory=str(options.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        measured = [measure_speed(browser, f"http://127.0.0.1:{server.server_port}/") for _ in range(ROUNDS)]
        server.shutdown()
    first, again, factor = (statistics.median(values) for values in zip(*measured, strict=True))
    print(f"first tag: {first:.1f} s at the first visit, {again:.1f} s later; real-time factor {factor:.3f}")


def measure_sizes(folder: Path) -> tuple[int, int]:
    """Bytes of all that is downloaded for use without WebGPU, raw and compressed."""
    files = json.loads((folder / "page" / "files.js").read_text().removeprefix("self.CED_FILES = ").rstrip(";\n"))
    contents = [(folder / name).read_bytes() for name in files if not any(part in name for part in ONLY_WEBGPU)]
    return sum(map(len, contents)), sum(len(gzip.compress(content)) for content in contents)


def measure_speed(browser: Browser, url: str) -> tuple[float, float, float]:
    """
    Seconds from opening the page to the tags of a sound of 0.5 s, at the first visit and at the next, and the real-time
    factor of tags and timeline together, for a recording of one minute.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "minute.wav")
        soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=AUDIO_S * 16000), 16000)
        context = browser.new_context()
        page = context.new_page()
        took_s = []
        for _ in range(2):
            began = time.perf_counter()
            page.goto(url)
            page.get_by_role("button", name="crow").click()
            expect(page.locator("#status")).to_contain_text("Done", timeout=60_000)
            took_s.append(time.perf_counter() - began)
            if len(took_s) == 1:
                began = time.perf_counter()
                page.get_by_label("Choose a file").set_input_files(path)
                expect(page.locator("#status")).to_contain_text("Done: 1:00", timeout=300_000)
                factor = (time.perf_counter() - began) / AUDIO_S
        context.close()
    return took_s[0], took_s[1], factor


if __name__ == "__main__":
    main()
