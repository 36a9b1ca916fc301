# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares three ways to augment the student's input, with several seeds and confidence intervals.

    python examples/ced_nano/ablation.py BANK OUT [--seeds 3] [--device cpu --feeder] [--at-once 1] [--minutes 60]

The student gets the same augmentation as the teacher, a different one, or none (neither gets any). All runs train a
student from random weights with the same schedule, and repeat the mixes of `--distinct` steps. Runs with the same seed
use the same mixes and the same initial weights. After an interruption, the same command continues with the unfinished
runs. OUT/ablation.json and OUT/ablation.md contain the finished runs.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from batches import WAYS
from ced_model.output import write_file
from train_gpu import open_recordings

METRICS = {"mAP": "mAP", "loss": "cross-entropy", "top_1": "top-1"}
PAIRS = (("consistent", "inconsistent"), ("inconsistent", "none"), ("consistent", "none"))
SETTINGS = ("--no-dense", "--final-share", "0", "--mask-share", "1", "--ema-decay", "0.99", "--warmup-steps", "50")
SIZE = ("--width", "96", "--depth", "4", "--heads", "3")


def command_of(options: argparse.Namespace, way: str, seed: int, minutes: float) -> list[str]:
    trainer = str(Path(__file__).with_name("train_gpu.py"))
    given = ("--way", way, "--seed", str(seed), "--steps", str(options.steps), "--distinct", str(options.distinct))
    given += ("--batch-patches", str(options.batch_patches), "--device", options.device, "--minutes", f"{minutes:.2f}")
    given += ("--evaluate", str(options.evaluate), "--save-steps", "100", "--cache", str(options.out))
    flags = ("--feeder",) * options.feeder
    return [
        sys.executable,
        trainer,
        str(options.bank),
        str(options.out / f"{way}-{seed}"),
        *SETTINGS,
        *SIZE,
        *given,
        *flags,
    ]


def figures_of(folder: Path, steps: int) -> dict[str, float] | None:
    """The metrics of a finished run, or None if the run is not finished."""
    try:
        figures = json.loads((folder / "heldout.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures if figures.get("step") == steps else None


def run_all(options: argparse.Namespace) -> None:
    """Runs all ways for one seed before the next seed, so that complete comparisons are available early."""
    deadline = time.monotonic() + 60 * options.minutes
    waiting = [
        (way, seed)
        for seed, way in itertools.product(range(options.seeds), WAYS)
        if figures_of(options.out / f"{way}-{seed}", options.steps) is None
    ]
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    try:
        while running or (waiting and time.monotonic() < deadline):
            while waiting and len(running) < options.at_once and time.monotonic() < deadline:
                way, seed = waiting.pop(0)
                folder = options.out / f"{way}-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                minutes = (deadline - time.monotonic()) / 60
                with open(folder / "output.txt", "ab") as log:
                    process = subprocess.Popen(command_of(options, way, seed, minutes), stdout=log, stderr=log)
                running.append((folder.name, process))
            time.sleep(0.2)
            for name, process in running:
                if process.poll():
                    print(f"{name} ended with status {process.returncode}: see {options.out / name / 'output.txt'}")
            running = [(name, process) for name, process in running if process.poll() is None]
    finally:
        for _, process in running:
            process.terminate()


def interval(values: list[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t (NaN for a single value)."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


def rows_of(found: dict[tuple[str, int], dict[str, float]]) -> Iterator[dict[str, Any]]:
    """One row per way, and one per difference between two ways at the same seed."""
    for way in WAYS:
        seeds = [seed for name, seed in found if name == way]
        if seeds:
            yield {"what": way, "seeds": len(seeds)} | {
                metric: interval([found[way, seed][metric] for seed in seeds]) for metric in METRICS
            }
    for first, second in PAIRS:
        seeds = [seed for name, seed in found if name == first and (second, seed) in found]
        if seeds:
            yield {"what": f"{first} - {second}", "seeds": len(seeds)} | {
                metric: interval([found[first, seed][metric] - found[second, seed][metric] for seed in seeds])
                for metric in METRICS
            }


def table_of(rows: list[dict[str, Any]]) -> str:
    lines = [f"| augmentation | seeds | {' | '.join(METRICS.values())} |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        pairs = (row[metric] for metric in METRICS)
        cells = " | ".join(f"{mean:.4f}" + ("" if np.isnan(half) else f" ± {half:.4f}") for mean, half in pairs)
        lines.append(f"| {row['what']} | {row['seeds']} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--distinct", type=int, default=100, help="number of steps with different mixes")
    parser.add_argument("--batch-patches", type=int, default=160)
    parser.add_argument("--evaluate", type=int, default=1000, help="maximum number of held-out recordings")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--feeder", action="store_true", help="on a CPU, make the batches in a second process")
    parser.add_argument("--at-once", type=int, default=1, help="runs at the same time")
    parser.add_argument("--minutes", type=float, default=1e6)
    options = parser.parse_args()
    if min(options.seeds, options.steps, options.at_once, options.distinct) < 1:
        parser.error("--seeds, --steps, --distinct and --at-once must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        open_recordings(options.bank, options.out, os.cpu_count() or 1)  # decoded once for all runs
    except ValueError as error:
        raise SystemExit(str(error)) from error
    run_all(options)
    found = {
        (way, seed): figures
        for seed, way in itertools.product(range(options.seeds), WAYS)
        if (figures := figures_of(options.out / f"{way}-{seed}", options.steps))
    }
    rows = list(rows_of(found))
    runs = [{"way": way, "seed": seed, **figures} for (way, seed), figures in found.items()]
    write_file(options.out / "ablation.json", json.dumps({"runs": runs, "rows": rows}, indent=1).encode())
    write_file(options.out / "ablation.md", table_of(rows).encode())
    print(f"{len(found)} of {3 * options.seeds} runs are finished.\n\n{table_of(rows)}")


if __name__ == "__main__":
    main()
