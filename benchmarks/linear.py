# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model in PyTorch with its linear layers computed by oneDNN, against PyTorch's own: logits, float32, on the CPU.

    python benchmarks/linear.py [--rounds 30]

Both take turns in one process; the ratio is the median of the ratios of the rounds.
"""

import argparse
import statistics
import time
from itertools import product

import torch
from machine import describe_machine

from ced_model import CedConfig, CedForAudioClassification, modeling_ced


def milliseconds(model: CedForAudioClassification, log_mels: torch.Tensor, with_onednn: bool) -> float:
    is_for_onednn = modeling_ced.is_for_onednn
    if not with_onednn:
        modeling_ced.is_for_onednn = lambda layer, values: False
    try:
        for _ in range(2):  # the second finds the processor's caches as the first left them
            start = time.perf_counter()
            with torch.inference_mode():
                model(log_mels)
            elapsed = 1000 * (time.perf_counter() - start)
        return elapsed
    finally:
        modeling_ced.is_for_onednn = is_for_onednn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    print(f"{describe_machine(('torch',))}; oneDNN is used here: {modeling_ced.has_fast_linear()}")
    print("| | threads | clips | plain | oneDNN | × |\n| --- | ---: | --- | ---: | ---: | ---: |")
    threads = sorted({1, torch.get_num_threads()})
    jobs = ((1, 10), (4, 10), (1, 2))
    for size, number, (clips, seconds) in product(("tiny", "mini", "small", "base"), threads, jobs):
        torch.set_num_threads(number)
        model = CedForAudioClassification(CedConfig(name=f"ced-{size}")).eval()
        log_mels = 10 * torch.randn(clips, 64, 1 + 100 * seconds) - 30
        pairs = [
            (milliseconds(model, log_mels, False), milliseconds(model, log_mels, True))
            for _ in range(arguments.rounds + 1)
        ][1:]  # the first round warms up
        plain, onednn = map(statistics.median, zip(*pairs, strict=True))
        ratio = statistics.median(before / after for before, after in pairs)
        cells = [size, str(number), f"{clips} × {seconds} s", f"{plain:.1f} ms", f"{onednn:.1f} ms", f"{ratio:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
