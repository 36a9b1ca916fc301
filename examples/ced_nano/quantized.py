# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares ced-nano in int8 with float32 and with the teacher, on held-out recordings.

python examples/ced_nano/quantized.py WORK
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import heldout
import yamnet
from ced_model import AudioTagger
from sources import SAMPLING_RATE

VARIANTS = (
    ("torch", "float32"),
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("onnx", "int8"),
    ("openvino", "int8"),
)


def scores_of(tagger: AudioTagger, waveforms: list[np.ndarray]) -> np.ndarray:
    """Probabilities (recordings, 527)."""
    scores = np.zeros((len(waveforms), len(tagger.labels)), np.float32)
    results = tagger.tag(waveforms, top_k=len(tagger.labels), sampling_rate=SAMPLING_RATE)
    for row, result in zip(scores, results, strict=True):
        for tag in result.tags:
            row[tag.index] = tag.score
    return scores


def compare(work: Path) -> list[dict[str, Any]]:
    waveforms = [waveform for _, waveform in heldout.heldout_recordings(work)]
    taught = np.stack([yamnet.teacher()(waveform[None])[0] for waveform in waveforms])
    rows: list[dict[str, Any]] = []
    reference = None
    for engine, compute_type in VARIANTS:
        tagger = AudioTagger(str(work / "packed"), engine=engine, compute_type=compute_type, device="cpu")
        scores = scores_of(tagger, waveforms)
        reference = scores if reference is None else reference
        metrics = heldout.metrics_of(taught, scores)
        rows.append(
            {
                "engine": f"{engine} {compute_type}",
                "recordings": len(scores),
                "same_top_1": float((scores.argmax(1) == reference.argmax(1)).mean()),
                "mean_difference": float(np.abs(scores - reference).mean()),
                "max_difference": float(np.abs(scores - reference).max()),
                "mAP": metrics.mean_average_precision,
                "top_1": metrics.top_1,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work
    rows = compare(work)
    (work / "report" / "quantized.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for row in rows:
        print(
            f"{row['engine']:<16} same top-1 {row['same_top_1']:.2%}  mAP {row['mAP']:.4f}  top-1 {row['top_1']:.2%}"
            f"  difference {row['mean_difference']:.1e} mean, {row['max_difference']:.1e} at most"
        )


if __name__ == "__main__":
    main()
