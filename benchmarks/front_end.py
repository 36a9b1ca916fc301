# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Log-mel of one clip: `log_mel` in NumPy, `CedFeatureExtractor`, and torchaudio objects created at each call.

    python benchmarks/front_end.py [--seconds 10] [--rounds 30]

The three take turns, with 20 calls each, in one process. Prints the medians over all rounds, and the median of the
ratios of the rounds.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchaudio

from ced_model import CedFeatureExtractor
from ced_model.log_mel import log_mel


def rebuilt_torchaudio(waveform: torch.Tensor) -> torch.Tensor:
    mel = torchaudio.transforms.MelSpectrogram(16000, 512, 512, 160, 0.0, 8000.0, n_mels=64)
    return torchaudio.transforms.AmplitudeToDB(top_db=120)(mel(waveform))


def median_ms(function: Callable[[], object], calls: int = 20) -> float:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()

    feature_extractor = CedFeatureExtractor()
    waveform = 0.1 * torch.randn(round(16000 * arguments.seconds), generator=torch.Generator().manual_seed(0))
    samples = waveform.numpy()
    times = []
    for _ in range(arguments.rounds + 1):
        numpy = median_ms(lambda: log_mel(samples))
        extractor = median_ms(lambda: feature_extractor(samples, sampling_rate=16000))
        times.append((numpy, extractor, median_ms(lambda: rebuilt_torchaudio(waveform))))
    times = times[1:]  # the first one warms up
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for place, name in enumerate(("log_mel", "CedFeatureExtractor", "torchaudio, rebuilt")):
        ratio = statistics.median(row[place] / row[-1] for row in times)
        print(f"{name:20} {statistics.median(row[place] for row in times):7.2f} ms, {ratio:.2f} × torchaudio")


if __name__ == "__main__":
    main()
