# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The contenders of `benchmarks/runtimes.py`: functions from waveforms to scores, each used in a separate process.

    python benchmarks/contenders.py CONTENDER MODEL_FOLDER        # tags one clip in a fresh process

Waveforms are float32 arrays (samples,) at 16 kHz of up to 10 s.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

SAMPLING_RATE = 16000
BATCH = 8  # clips of a padded batch

Tag = Callable[[Sequence[np.ndarray]], np.ndarray]


def ced(folder: str, **options: str) -> Tag:
    from ced_model import AudioTagger

    tagger = AudioTagger(folder, device="cpu", **options)

    def tag(waveforms: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([[tag.score for tag in tags] for tags in tagger(list(waveforms), top_k=5)])

    return tag


def naive(folder: str) -> Tag:
    from naive import NaiveCed

    from ced_model import CedForAudioClassification

    model = NaiveCed(CedForAudioClassification.from_pretrained(folder))

    def tag(waveforms: Sequence[np.ndarray]) -> np.ndarray:
        batches = [model(waveforms[start : start + BATCH]) for start in range(0, len(waveforms), BATCH)]
        return np.sort(np.concatenate(batches))[:, :-6:-1]

    return tag


def ast(folder: str) -> Tag:
    """86 M parameters, the shape of `MIT/ast-finetuned-audioset-10-10-0.4593`."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    model = ASTForAudioClassification(ASTConfig(num_labels=527)).eval()
    extractor = ASTFeatureExtractor()

    @torch.inference_mode()
    def tag(waveforms: Sequence[np.ndarray]) -> np.ndarray:
        inputs = extractor(list(waveforms), sampling_rate=SAMPLING_RATE, return_tensors="pt")
        return model(**inputs).logits.sigmoid().numpy()

    return tag


def yamnet(folder: str) -> Tag:
    """3.7 M parameters in 8 bits with ONNX Runtime; front end in NumPy."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "ced_nano"))
    from yamnet import YamNet

    model = YamNet(num_threads=0)
    return lambda waveforms: np.stack([model.scores(waveform).mean(0) for waveform in waveforms])


CONTENDERS: dict[str, Callable[[str], Tag]] = {
    "torch": partial(ced, engine="torch"),
    "onnx": partial(ced, engine="onnx"),
    "openvino": partial(ced, engine="openvino"),
    "openvino bfloat16": partial(ced, engine="openvino", compute_type="bfloat16"),
    "onnx int8": partial(ced, engine="onnx", compute_type="int8"),
    "openvino int8": partial(ced, engine="openvino", compute_type="int8"),
    "naive port": naive,
    "AST": ast,
    "YAMNet int8": yamnet,
}


def make_clip(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLING_RATE))).astype(np.float32)


if __name__ == "__main__":
    print(CONTENDERS[sys.argv[1]](sys.argv[2])([make_clip(10.0)]).shape)
