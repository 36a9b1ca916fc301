# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Agreement of int8 with float32 on recordings: top class and probabilities, for clips and for windows of 2 s.

    pip install ".[openvino]"
    python benchmarks/int8_agreement.py FOLDER [--model mispeech/ced-tiny]

FOLDER has recordings, also in subfolders, such as ESC-10 (K. J. Piczak, ACM Multimedia 2015). The reference is ONNX
Runtime in float32. The int8 models are calibrated on synthetic sounds, as with `ced tag --compute-type int8`.
"""

import argparse
from pathlib import Path

import numpy as np
from machine import describe_machine

from ced_model import AudioTagger

ENGINES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
WINDOW_S = 2.0


def scores_of(tagger: AudioTagger, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the clips `(clips, classes)` and of their windows `(windows, classes)`."""
    clips = np.zeros((len(paths), len(tagger.labels)))
    for row, result in zip(clips, tagger.tag(paths, top_k=len(tagger.labels)), strict=True):
        for tag in result.tags or []:
            row[tag.index] = tag.score
    timelines = (result.timeline for result in tagger.timelines(paths, window_s=WINDOW_S))
    return clips, np.concatenate([each.scores for each in timelines if each is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ced-nano")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.glob("**/*.*") if path.suffix in {".flac", ".ogg", ".wav"})
    if not paths:
        raise SystemExit(f"{arguments.folder}: expected recordings (.flac, .ogg, .wav), found none.")
    reference = scores_of(AudioTagger(arguments.model, engine="onnx"), paths)
    same = ["Same top class, clips", f"Same top class, windows of {WINDOW_S:g} s"]
    print(f"| Engine | {' | '.join(same)} | Mean difference of probabilities | Largest difference |")
    print("| --- |" + " ---: |" * 4)
    for engine, name in ENGINES.items():
        found = scores_of(AudioTagger(arguments.model, engine=engine, compute_type="int8"), paths)
        equal = [np.mean(a.argmax(1) == b.argmax(1)) for a, b in zip(found, reference, strict=True)]
        difference = np.abs(found[0] - reference[0])
        print(f"| {name} | {equal[0]:.1%} | {equal[1]:.1%} | {difference.mean():.1e} | {difference.max():.3f} |")
    machine = describe_machine(("onnxruntime", "openvino"))
    print(f"\n{len(paths)} clips, {len(reference[1])} windows, {arguments.model}, {machine}.")


if __name__ == "__main__":
    main()
