# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Peak memory for long recordings: a 10-hour file compared with a 10-minute one.

    python benchmarks/memory.py [--hours 10] [--folder FOLDER]

For each length, tags and a timeline of 2 s windows every second are computed in separate processes. The model has
random weights in the shape of ced-tiny.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from machine import peak_memory_mb
from tagging import RESOURCES, save_random_model


def make_recording(path: Path, seconds: float) -> None:
    """A FLAC file at 44.1 kHz that repeats a recording with noise, written blockwise."""
    samples, rate = soundfile.read(RESOURCES / "loop_tabla.flac", dtype="float32", always_2d=True)
    block = 0.3 * samples.mean(axis=1) + 0.001 * np.random.default_rng(0).standard_normal(len(samples)).astype("f4")
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        left = round(seconds * rate)
        while left > 0:
            file.write(block[:left])
            left -= len(block)


def measure(path: str, model_dir: str, job: str) -> None:
    from ced_model import AudioTagger

    tagger = AudioTagger(model_dir)
    start = time.perf_counter()
    if job == "tag":
        tagger(path)
    else:
        tagger.timeline(path, window_s=2.0, hop_s=1.0)
    wall_s = time.perf_counter() - start
    print(wall_s, peak_memory_mb())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, help="folder for the recordings, which are kept and used again")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        save_random_model("ced-tiny", Path(temporary) / "model")
        print("| job | recording | time | × real time | peak memory |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for job in ("tag", "timeline"):
            for hours in (1 / 6, arguments.hours):
                path = folder / f"{hours:.2f}h.flac"
                if not path.exists():
                    make_recording(path, 3600 * hours)
                command = [sys.executable, __file__, "--measure", str(path), f"{temporary}/model", job]
                wall_s, peak_mb = map(float, subprocess.check_output(command, text=True).split()[-2:])
                print(f"| {job} | {hours:.2f} h | {wall_s:.0f} s | {3600 * hours / wall_s:.0f} | {peak_mb:.0f} MB |")


if __name__ == "__main__":
    main()
