# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Cost of short hops: a timeline of windows of 2 s, and the front end alone with and without shared frames.

    python benchmarks/hops.py [--model ced-nano] [--seconds 60] [--rounds 3]

The recording is `resources/loop_tabla.flac`, repeated. Each row is one hop; times are medians over the rounds, in CPU
seconds per minute of audio. The last column is the largest difference of scores with and without shared frames.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from machine import describe_machine

from ced_model import AudioTagger
from ced_model.log_mel import SharedFrames, log_mel
from ced_model.scheduling import cut_windows

RECORDING = Path(__file__).parent.parent / "resources" / "loop_tabla.flac"
RATE = 16000
WINDOW_S = 2.0
HOPS_S = (2.0, 1.0, 0.5, 0.2, 0.1)
CHECKED = 20  # number of windows that are computed one by one


def cpu_s(function: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def largest_difference(tagger: AudioTagger, waveform: np.ndarray, hop_s: float) -> float:
    timeline = tagger.timeline(waveform, window_s=WINDOW_S, hop_s=hop_s)
    worst = 0.0
    for index in np.linspace(0, len(timeline.scores) - 1, CHECKED, dtype=int):
        start, end = round(timeline.start_s[index] * RATE), round(timeline.end_s[index] * RATE)
        alone = tagger(waveform[start:end], threshold=-1)
        worst = max(worst, *(abs(timeline.scores[index, tag.index] - tag.score) for tag in alone))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ced-nano")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    samples, rate = soundfile.read(RECORDING, dtype="float32")
    loop = soxr.resample(samples.mean(axis=1), rate, RATE)
    waveform = np.resize(loop, round(arguments.seconds * RATE))
    tagger = AudioTagger(arguments.model)
    tagger.timeline(waveform[: 5 * RATE])  # warms up
    per_minute = 60 / arguments.seconds
    print(f"{describe_machine(('onnxruntime',))}; {tagger.name}, {tagger.engine} {tagger.compute_type}\n")
    header = ("Log-mel, shared frames", "Log-mel, each window by itself", "Whole timeline", "Largest difference")
    print("| Hop | Windows |", " | ".join(header), "|")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for hop_s in HOPS_S:
        windows = list(cut_windows([waveform], round(WINDOW_S * RATE), round(hop_s * RATE), 2400, 161919))
        shared = cpu_s(lambda: share(tagger, windows), arguments.rounds) * per_minute  # noqa: B023
        alone = cpu_s(lambda: [log_mel(each.waveform) for each in windows], arguments.rounds) * per_minute  # noqa: B023
        timeline = cpu_s(lambda: tagger.timeline(waveform, hop_s=hop_s), arguments.rounds) * per_minute  # noqa: B023
        cells = (f"{hop_s:g} s", f"{len(windows) * per_minute:.0f}", f"{shared:.2f} s", f"{alone:.2f} s")
        print("|", " | ".join(cells), f"| {timeline:.2f} s | {largest_difference(tagger, waveform, hop_s):.0e} |")


def share(tagger: AudioTagger, windows: list) -> None:
    frames = SharedFrames(tagger.front_end)
    for window in windows:
        frames.log_mel(window.start, window.waveform)


if __name__ == "__main__":
    main()
