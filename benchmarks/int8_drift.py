# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Error of logits by int8 quantization, for random weights in the shape of a published model.

    pip install ".[openvino]"
    python benchmarks/int8_drift.py [--size tiny]

Accuracy cannot be measured with random weights; `examples/ced_nano/quantized.py` measures it for ced-nano. The clips
are the beginnings of the recordings in `resources/`.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from tagging import save_random_model

from ced_model import AudioTagger
from ced_model.audio import read_audio

RESOURCES = Path(__file__).resolve().parents[1] / "resources"
LENGTHS_S = (0.5, 2.0, 5.0, 10.0)


def logits(tagger: AudioTagger, clips: list[np.ndarray]) -> np.ndarray:
    """Logits, float64 of shape `(clips, classes)`."""
    rows = [sorted(tags, key=lambda tag: tag.index) for tags in tagger(clips, threshold=0.0)]
    probabilities = np.array([[tag.score for tag in tags] for tags in rows])
    return np.log(probabilities / (1 - probabilities))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=["tiny", "mini", "small", "base"])
    size = parser.parse_args().size
    recordings = [read_audio(path) for path in sorted(RESOURCES.glob("*.flac"))]
    samples = [round(16000 * seconds) for seconds in LENGTHS_S]
    clips = [recording[:count] for recording in recordings for count in samples if count <= len(recording)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_ASSETS_CACHE"] = f"{folder}/assets"
        save_random_model(f"ced-{size}", folder)
        expected = logits(AudioTagger(folder, engine="onnx"), clips)
        print(f"ced-{size}, {len(clips)} clips; standard deviation of the logits: {expected.std():.3f}")
        for engine in ("onnx", "openvino"):
            found = logits(AudioTagger(folder, engine=engine, compute_type="int8"), clips)
            drift = abs(found - expected)
            print(f"{engine}: difference of the logits {drift.mean():.1e} on average, {drift.max():.1e} at most")


if __name__ == "__main__":
    main()
