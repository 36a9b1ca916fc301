# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy on 8 kHz and telephone audio: labelled clips tagged with full and with reduced bandwidth.

    pip install ".[train]"
    python benchmarks/telephone.py ESC10 [--model mispeech/ced-tiny]

ESC10 is a folder with one subfolder of clips per class of ESC-10 (K. J. Piczak, ACM Multimedia 2015). "8 kHz" resamples
a clip, which removes frequencies above 4 kHz; "telephone" also limits it to 300 to 3400 Hz and encodes it as G.711
µ-law. Scores are those of the corresponding AudioSet classes, without training.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from few_shot import AUDIOSET
from machine import describe_machine
from scipy.signal import butter, sosfiltfilt
from sklearn.metrics import average_precision_score

from ced_model import AudioTagger, load_audio

NARROW = 8000


def unchanged(waveform: np.ndarray, rate: int) -> io.BytesIO:
    return written(waveform, rate, "PCM_16")


def at_8_khz(waveform: np.ndarray, rate: int) -> io.BytesIO:
    return written(soxr.resample(waveform, rate, NARROW), NARROW, "PCM_16")


def by_telephone(waveform: np.ndarray, rate: int) -> io.BytesIO:
    narrow = soxr.resample(waveform, rate, NARROW)
    band = butter(4, (300, 3400), btype="bandpass", fs=NARROW, output="sos")
    return written(sosfiltfilt(band, narrow), NARROW, "ULAW")


def written(waveform: np.ndarray, rate: int, subtype: str) -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, waveform.clip(-1, 1), rate, format="WAV", subtype=subtype)
    file.seek(0)
    return file


VARIANTS: dict[str, Callable[[np.ndarray, int], io.BytesIO]] = {
    "original": unchanged,
    "8 kHz": at_8_khz,
    "telephone": by_telephone,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ced-nano")
    arguments = parser.parse_args()
    tagger = AudioTagger(arguments.model, engine="onnx")
    paths = sorted(arguments.folder.glob("*/*.*"))
    files = [(path, label) for path in paths if (label := audioset_name(path.parent.name))]
    names = list(dict.fromkeys(label for _, label in files))
    columns = [tagger.labels.index(name) for name in names]
    targets = np.array([[label == name for name in names] for _, label in files])
    rows: dict[str, list[float]] = {}
    for variant, change in VARIANTS.items():
        clips = (change(*load_audio(path, sampling_rate=44100)) for path, _ in files)
        timelines = (result.timeline for result in tagger.timelines(clips, window_s=5.0))
        scores = np.stack([each.scores.max(axis=0)[columns] for each in timelines if each is not None])
        precisions = [average_precision_score(targets[:, c], scores[:, c]) for c in range(len(names))]
        hits = float((scores.argmax(axis=1) == targets.argmax(axis=1)).mean())
        rows[variant] = [hits, float(np.mean(precisions)), float(scores[targets].mean()), *map(float, precisions)]
    print("| | " + " | ".join(rows) + " |\n| --- |" + " ---: |" * len(rows))
    for index, name in enumerate(["top-1 of the ten classes", "mAP", "mean score of the right class", *names]):
        print(f"| {name} | " + " | ".join(f"{row[index]:.3f}" for row in rows.values()) + " |")
    print(f"\n{len(files)} clips, {tagger.name}, {describe_machine(('onnxruntime',))}.")


def audioset_name(folder: str) -> str | None:
    """The AudioSet class for a folder."""
    return next((label for word, label in AUDIOSET.items() if word in folder.lower()), None)


if __name__ == "__main__":
    main()
