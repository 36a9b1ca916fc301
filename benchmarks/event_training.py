# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Event F1 before and after fine-tuning on strong labels, with scenes made from clips of ESC-10.

    python benchmarks/event_training.py ESC10 [--model ced-nano] [--scenes 80] [--epochs 15]

ESC10 is a folder with one subfolder of clips per class (`001 - Dog bark`, …); names of clips begin with the number of
their fold. Five classes of short sounds are placed in scenes of 10 s with faint noise, one to four events each; labels
are the times at which they are within 30 dB of their peak. Training scenes use clips of fold 1, test scenes clips of
fold 2. Before fine-tuning, events are found in windows of 1 s every 0.2 s; after it, in steps of 0.16 s. In both cases
events end below half of the threshold, and are merged over gaps of up to 0.3 s.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from machine import describe_machine

from ced_model import load_audio
from ced_model.event_evaluation import EventEvaluation, evaluate_events
from ced_model.training.finetuning import FinetuningOptions, finetune

CLASSES = {
    "Dog bark": "Bark",
    "Person sneeze": "Sneeze",
    "Rooster": "Crowing, cock-a-doodle-doo",
    "Baby cry": "Baby cry, infant cry",
    "Clock tick": "Tick-tock",
}
RATE, LENGTH_S, NOISE_DB = 16000, 10.0, -55.0
FRAME = RATE // 50
MAX_EVENT_S = 2.5


def cut_event(path: Path) -> np.ndarray:
    """The part of a clip around its peak in which the level of 20 ms is within 30 dB of the maximum."""
    samples, _ = load_audio(path)
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    level = np.sqrt((frames**2).mean(axis=1))
    active = level > level.max() * 10 ** (-30 / 20)
    # Gaps of up to 0.2 s belong to the sound.
    gaps = np.flatnonzero(np.diff(np.flatnonzero(active)) > 10)
    places = np.split(np.flatnonzero(active), gaps + 1)
    loudest = int(level.argmax())
    stretch = next(each for each in places if loudest in each)
    event = samples[stretch[0] * FRAME : (stretch[-1] + 1) * FRAME][: int(MAX_EVENT_S * RATE)]
    return event / np.abs(event).max()


def make_scenes(sounds: dict[str, list[np.ndarray]], folder: Path, number: int, seed: int) -> Path:
    """Writes scenes and a table of their labels; returns the path of the table."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    lines = ["filename\tonset\toffset\tevent_label"]
    for index in range(number):
        scene = random.normal(0, 10 ** (NOISE_DB / 20), int(LENGTH_S * RATE)).astype(np.float32)
        ends: dict[str, list[tuple[float, float]]] = {}
        rows = []
        for _ in range(int(random.integers(1, 5))):
            label = str(random.choice(list(sounds)))
            event = sounds[label][int(random.integers(len(sounds[label])))]
            start = int(random.integers(0, len(scene) - len(event)))
            onset, offset = start / RATE, (start + len(event)) / RATE
            if any(onset < end + 0.3 and begin < offset + 0.3 for begin, end in ends.get(label, [])):
                continue
            ends.setdefault(label, []).append((onset, offset))
            scene[start : start + len(event)] += event * 10 ** (random.uniform(-20, -6) / 20)
            rows.append(f"{index}.flac\t{onset:.3f}\t{offset:.3f}\t{label}")
        soundfile.write(folder / f"{index}.flac", scene, RATE)
        lines += rows
    (folder / "labels.tsv").write_text("\n".join(lines) + "\n")
    return folder / "labels.tsv"


def show(name: str, found: EventEvaluation) -> None:
    event, segment = found.scores.event_based, found.scores.segment_based
    figures = (event.macro.f_measure, event.micro.f_measure, segment.macro.f_measure, segment.micro.f_measure)
    print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("esc10", type=Path)
    parser.add_argument("--model", default="ced-nano")
    parser.add_argument("--scenes", type=int, default=80, help="training scenes; there are half as many test scenes")
    parser.add_argument("--epochs", type=float, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    folders = {name: next(path for path in arguments.esc10.iterdir() if path.name.endswith(name)) for name in CLASSES}
    sounds = [
        {
            label: [cut_event(path) for path in sorted(folders[name].glob(f"{fold}-*"))]
            for name, label in CLASSES.items()
        }
        for fold in (1, 2)
    ]
    print("| | events, macro F1 | events, micro F1 | segments, macro F1 | segments, micro F1 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    scoring = {"empty_system_output_handling": "zero_score"}
    with tempfile.TemporaryDirectory() as work:
        training = make_scenes(sounds[0], Path(work, "train"), arguments.scenes, 1)
        test = make_scenes(sounds[1], Path(work, "test"), arguments.scenes // 2, 2)
        for threshold in (0.5, 0.2, 0.1):
            finding = {"off_threshold": threshold / 2, "merge_gap_s": 0.3}
            how = {"thresholds": threshold, "window_s": 1.0, "hop_s": 0.2, "finding": finding}
            show(f"before, threshold {threshold:g}", evaluate_events(arguments.model, test, **how, **scoring))
        begun = time.monotonic()
        options = FinetuningOptions(epochs=arguments.epochs, batch_size=8, patience=0)
        done = finetune(
            training,
            Path(work, "model"),
            model=arguments.model,
            options=options,
            training_arguments={"report_to": "none", "dataloader_num_workers": 0, "disable_tqdm": True},
            events=True,
        )
        minutes = (time.monotonic() - begun) / 60
        for threshold in (0.5, 0.2, 0.1):
            finding = {"off_threshold": threshold / 2, "merge_gap_s": 0.3}
            found = evaluate_events(Path(work, "model"), test, thresholds=threshold, finding=finding, **scoring)
            show(f"fine-tuned, threshold {threshold:g}", found)
    print(
        f"\n{arguments.model}: {done.num_training_clips} scenes of 10 s for training, {done.num_validation_clips} for"
        f" validation, {arguments.scenes // 2} for the test; {minutes:.1f} min. {describe_machine(('torch',))}."
    )


if __name__ == "__main__":
    main()
