# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Precision of onsets and offsets: frame logits of complete clips compared with windows of 2 s, on synthetic scenes.

    python benchmarks/onsets.py [--scenes 4] [--noise-db -60]

A scene of 5, 10 or 30 s has one short event from `resources/`, with a peak of -6 dBFS, at a random time in white noise.
The rule is the same for both methods: the class is the best-scored one of the recording alone, the threshold is half of
the highest score of that class in the scene, and the event is the one with that score. The model is ced-nano, which was
not trained on times.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from machine import describe_machine

from ced_model import AudioTagger, CedFeatureExtractor, CedForAudioFrameClassification, Timeline, bundled_folder

RATE, STEP_S, WINDOW_S = 16000, 0.16, 2.0
HOPS_S, LENGTHS_S = (1.0, 0.5, 0.2, 0.1), (5, 10, 30)
RECORDINGS = ("misc_crow", "misc_burp", "perc_snap", "perc_bell", "guit_e_slide")
LONGEST_S = 1.0  # longer recordings are cut to the first second
RESOURCES = Path(__file__).parent.parent / "resources"


def read_event(name: str) -> np.ndarray:
    """A recording, mono at 16 kHz with a peak of 0.5, cut at the last sample within 40 dB of its peak."""
    channels, rate = soundfile.read(RESOURCES / f"{name}.flac", dtype="float32", always_2d=True)
    event = soxr.resample(channels.mean(axis=1), rate, RATE)[: int(LONGEST_S * RATE)]
    event *= 0.5 / np.abs(event).max()
    loud = np.flatnonzero(np.abs(event) > 0.5 * 10 ** (-40 / 20))
    return event[loud[0] : loud[-1] + 1]


def make_scene(
    event: np.ndarray, length_s: float, noise_db: float, generator: np.random.Generator
) -> tuple[np.ndarray, float]:
    """The event in white noise, at least 1 s from both ends, and its onset in seconds."""
    scene = generator.normal(0, 10 ** (noise_db / 20), int(length_s * RATE)).astype(np.float32)
    start = int(generator.integers(RATE, len(scene) - len(event) - RATE))
    scene[start : start + len(event)] += event
    return scene, start / RATE


class FrameTagger:
    """Timelines of steps of 160 ms, from one pass over the clip."""

    def __init__(self) -> None:
        self.extractor = CedFeatureExtractor.from_pretrained(bundled_folder())
        self.model = CedForAudioFrameClassification.from_pretrained(bundled_folder(), pad_last=False).eval()

    @torch.inference_mode()
    def timeline(self, scene: np.ndarray) -> Timeline:
        scores = self.model(**self.extractor(scene, sampling_rate=RATE)).logits[0].sigmoid().numpy()
        starts = np.arange(len(scores)) * STEP_S
        return Timeline(scores, starts, starts + STEP_S, list(self.model.config.id2label.values()), len(scene) / RATE)


def measure(timeline: Timeline, label: str, onset_s: float, offset_s: float) -> tuple[float, float, float, float]:
    """Absolute errors of onset and offset in seconds, the highest score, and the highest score ≥ 1 s from the event."""
    column = timeline.scores[:, list(timeline.labels).index(label)]
    event = max(timeline.events({label: float(column.max()) / 2}), key=lambda event: event.peak)
    away = column[(timeline.end_s < onset_s - 1) | (timeline.start_s > offset_s + 1)]
    leak = float(away.max()) if len(away) else float("nan")
    return abs(event.onset_s - onset_s), abs(event.offset_s - offset_s), event.peak, leak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=4, help="scenes per recording and length")
    parser.add_argument("--noise-db", type=float, default=-60, help="level of the noise in dBFS")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tagger, frames, generator = AudioTagger(num_threads=1), FrameTagger(), np.random.default_rng(0)
    methods = {"frame logits, whole clip": frames.timeline} | {
        f"windows of {WINDOW_S:g} s, hop {hop_s:g} s": lambda scene, hop_s=hop_s: tagger.timeline(
            scene, window_s=WINDOW_S, hop_s=hop_s
        )
        for hop_s in HOPS_S
    }
    results: dict[tuple[str, int], list[tuple[float, float, float, float]]] = {}
    for name in RECORDINGS:
        event = read_event(name)
        label = tagger(event)[0].label
        for length_s in LENGTHS_S:
            for _ in range(arguments.scenes):
                scene, onset_s = make_scene(event, length_s, arguments.noise_db, generator)
                for method, timeline in methods.items():
                    errors = measure(timeline(scene), label, onset_s, onset_s + len(event) / RATE)
                    results.setdefault((method, length_s), []).append(errors)
    print("| method | scene | onset error | offset error | onsets within 0.2 s | highest score | score 1 s away |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (method, length_s), rows in sorted(results.items(), key=lambda item: list(methods).index(item[0][0])):
        onsets, offsets, peaks, leaks = np.array(rows).T
        print(
            f"| {method} | {length_s} s | {np.median(onsets):.2f} s | {np.median(offsets):.2f} s |"
            f" {np.mean(onsets <= 0.2):.0%} | {np.median(peaks):.2f} | {np.nanmedian(leaks):.3f} |"
        )
    count = arguments.scenes * len(RECORDINGS)
    machine = describe_machine(("torch", "onnxruntime"))
    print(f"\nNoise {arguments.noise_db:g} dBFS. Medians of {count} scenes of each length. {machine}.")


if __name__ == "__main__":
    main()
