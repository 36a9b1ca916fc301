# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips per second and memory of the four published shapes on a GPU, with random weights, and times of file tagging.

    python benchmarks/gpu.py [--device cuda] [--sizes tiny mini small base] [--minutes 4]
    python benchmarks/gpu.py --device cpu --sizes tiny --batch-sizes 1 4 --files 40    # test of the script

Prints three tables: the model alone (clips of 10 s, and a padded batch of mixed lengths) by compute type, attention and
batch size; the front end on CPU and device; tagging of files, with separate times of decoding and the front end.
Figures are medians over the rounds. Batches that do not fit into the device memory are marked. After `--minutes`, no
further rows are measured.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from tagging import make_files, save_random_model

from ced_model import AudioTagger, CedConfig, CedFeatureExtractor, CedForAudioClassification, load_audio

RATE = 16000
CLIP_S = 10.0
ATTENTIONS = ("sdpa", "eager", "compiled sdpa")


class Clock:
    """Times calls on a device, until the time limit."""

    def __init__(self, device: str, rounds: int, minutes: float) -> None:
        self.device, self.rounds, self.end = torch.device(device), rounds, time.monotonic() + 60 * minutes

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.end

    def wait(self) -> None:
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()

    def seconds(self, call: Callable[[], object], *, warmup: int = 2) -> float:
        times = []
        for number in range(warmup + self.rounds):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            if number >= warmup:
                times.append(time.perf_counter() - start)
        return statistics.median(times)


def print_row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def print_head(*cells: str) -> None:
    print()
    print_row(*cells)
    print_row(*(["---"] * len(cells)))


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], str]]:
    """Peak memory that PyTorch allocated on the device within the context."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield lambda: f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if device.type == "cuda" else "-"


def make_model(size: str, dtype: str, attention: str, device: torch.device) -> torch.nn.Module:
    torch.manual_seed(0)
    config = CedConfig(name=f"ced-{size}")
    model = CedForAudioClassification._from_config(
        config, dtype=getattr(torch, dtype), attn_implementation=attention.removeprefix("compiled ")
    )
    model = model.eval().to(device)
    return torch.compile(model, fullgraph=True, dynamic=False) if attention.startswith("compiled") else model


def batches(batch_sizes: list[int], extractor: CedFeatureExtractor) -> Iterator[tuple[str, int, list[np.ndarray]]]:
    """(name, clips, waveforms)"""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=30 * RATE).astype(np.float32)
    for count in batch_sizes:
        yield f"{count} × {CLIP_S:g} s", count, [noise[: int(CLIP_S * RATE)]] * count
    lengths = rng.uniform(0.5, 30, size=max(batch_sizes))
    yield f"{len(lengths)} of 0.5 to 30 s", len(lengths), [noise[: int(length * RATE)] for length in lengths]


@torch.inference_mode()
def time_models(options: argparse.Namespace, clock: Clock) -> None:
    print_head("model", "computes in", "attention", "batch", "clips/s", "audio s / s", "memory")
    extractor = CedFeatureExtractor()
    for size in options.sizes:
        for dtype in options.compute_types:
            for attention in options.attentions:
                model = make_model(size, dtype, attention, clock.device)
                for name, clips, waveforms in batches(options.batch_sizes, extractor):
                    if clock.is_over:
                        return
                    audio_s = sum(map(len, waveforms)) / RATE
                    with peak_memory(clock.device) as peak:
                        try:
                            features = extractor(waveforms, sampling_rate=RATE, device=clock.device)
                            seconds = clock.seconds(lambda model=model, features=features: model(**features))
                        except torch.OutOfMemoryError:
                            print_row(f"ced-{size}", dtype, attention, name, "out of memory", "", "")
                            continue
                        figures = f"{clips / seconds:.0f}", f"{audio_s / seconds:.0f}", peak()
                        print_row(f"ced-{size}", dtype, attention, name, *figures)


def time_front_end(options: argparse.Namespace, clock: Clock) -> None:
    print_head("front end", "batch", "clips/s")
    extractor = CedFeatureExtractor()
    for device in dict.fromkeys(("cpu", str(clock.device))):
        for name, clips, waveforms in batches(options.batch_sizes, extractor):
            if clock.is_over:
                return
            seconds = clock.seconds(
                lambda waveforms=waveforms, device=device: extractor(waveforms, sampling_rate=RATE, device=device)
            )
            print_row("NumPy, CPU" if device == "cpu" else f"PyTorch, {device}", name, f"{clips / seconds:.0f}")


def time_files(options: argparse.Namespace, clock: Clock, folder: Path) -> None:
    """Time from files to tags, and of decoding and the front end alone with the same number of threads."""
    files = sorted((folder / "audio").iterdir())
    extractor, threads = CedFeatureExtractor(), torch.get_num_threads()

    def decode(path: Path) -> np.ndarray:
        return load_audio(path)[0]

    def prepare(path: Path) -> object:
        return extractor(decode(path), sampling_rate=RATE)

    audio_s = sum(len(decode(path)) for path in files) / RATE
    print_head(f"{len(files)} files, {audio_s / 3600:.2f} h", "audio s / s")
    with ThreadPoolExecutor(threads) as pool:
        for name, step in (("decoding", decode), ("decoding and front end", prepare)):
            seconds = clock.seconds(lambda step=step: list(pool.map(step, files)), warmup=0)
            print_row(f"{name}, {threads} threads", f"{audio_s / seconds:.0f}")
    for size in options.sizes:
        for dtype in options.compute_types:
            if clock.is_over:
                return
            save_random_model(f"ced-{size}", folder / size)
            tagger = AudioTagger(folder / size, engine="torch", device=str(clock.device), compute_type=dtype)
            seconds = clock.seconds(lambda tagger=tagger: list(tagger.tag(files, top_k=3)), warmup=1)
            print_row(f"AudioTagger, ced-{size}, {dtype}", f"{audio_s / seconds:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["tiny", "mini", "small", "base"])
    parser.add_argument("--compute-types", nargs="+", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--attentions", nargs="+", default=["sdpa", "compiled sdpa"], choices=ATTENTIONS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit; no measurement starts after it")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA GPU; try the benchmark without one with --device cpu")
    clock = Clock(options.device, options.rounds, options.minutes)
    card = torch.cuda.get_device_name(clock.device) if clock.device.type == "cuda" else "no GPU"
    print(f"{card}; {describe_machine()}")
    with tempfile.TemporaryDirectory() as temporary:
        make_files(Path(temporary) / "audio", options.files)
        time_front_end(options, clock)
        time_files(options, clock, Path(temporary))
        time_models(options, clock)
    if clock.is_over:
        print("\nThe time limit was reached: the tables are incomplete.")


if __name__ == "__main__":
    main()
