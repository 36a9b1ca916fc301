# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Tagging of many files: `AudioTagger` compared with a loop over transformers' pipeline and with padded batches.

    python benchmarks/tagging.py [--files 1000] [--rounds 3] [--folder FOLDER] [--model ced-tiny]

The script makes the files (0.5 to 30 s; wav, flac and mp3; 8 to 48 kHz; mono and stereo) from the recordings in
`resources/` and noise. The model has random weights. Contenders run in separate processes and take turns. Times are
from the first file to the last result, without imports and loading.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from machine import describe_machine, peak_memory_mb

RESOURCES = Path(__file__).parents[1] / "resources"
RATES = [8000, 16000, 22050, 32000, 44100, 48000]
FORMATS = ["wav", "flac", "mp3"]
Scores = dict[str, np.ndarray]


def make_files(folder: Path, count: int) -> None:
    """Writes `count` files, the same at each call."""
    import soxr

    rng = np.random.default_rng(0)
    recordings = []
    for path in sorted(RESOURCES.glob("*.flac")):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        recordings.append(soxr.resample(samples.mean(axis=1), rate, 48000))
    scene = np.concatenate([recordings[i] for i in rng.integers(len(recordings), size=40)])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rate = int(rng.choice(RATES))
        length = round(rate * rng.uniform(0.5, 30))
        start = rng.integers(len(scene) - length)
        samples = 0.5 * scene[start : start + length] + 0.01 * rng.standard_normal(length)
        if rng.random() < 0.5:
            samples = np.stack([samples, 0.8 * samples], axis=1)
        soundfile.write(folder / f"{number:05d}.{rng.choice(FORMATS)}", samples, rate)


def with_tagger(model_dir: str, files: list[Path], **options: str) -> Callable[[], Scores]:
    from ced_model import AudioTagger

    tagger = AudioTagger(model_dir, **options)

    def run() -> Scores:
        results = tagger.tag(files, top_k=len(tagger.labels))
        return {result.name: scores_of({tag.label: tag.score for tag in result.tags}) for result in results}

    return run


def with_pipeline(model_dir: str, files: list[Path]) -> Callable[[], Scores]:
    from transformers import pipeline

    import ced_model  # noqa: F401

    classifier = pipeline("audio-classification", model=model_dir, top_k=None)

    def run() -> Scores:
        scores = {}
        for path in files:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            tags = classifier({"array": samples.mean(axis=1), "sampling_rate": rate})
            scores[str(path)] = scores_of({tag["label"]: tag["score"] for tag in tags})
        return scores

    return run


def with_padded_batches(model_dir: str, files: list[Path]) -> Callable[[], Scores]:
    import soxr
    import torch

    from ced_model import AUDIOSET_LABELS, CedFeatureExtractor, CedForAudioClassification

    model = CedForAudioClassification.from_pretrained(model_dir)
    feature_extractor = CedFeatureExtractor.from_pretrained(model_dir)

    def batches() -> Iterator[list[Path]]:
        for start in range(0, len(files), 8):
            yield files[start : start + 8]

    def run() -> Scores:
        scores = {}
        for paths in batches():
            clips = []
            for path in paths:
                samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
                clips.append(soxr.resample(samples.mean(axis=1), rate, 16000))
            with torch.inference_mode():
                rows = model(**feature_extractor(clips, sampling_rate=16000)).logits.sigmoid()
            for path, row in zip(paths, rows.numpy(), strict=True):
                scores[str(path)] = scores_of(dict(zip(AUDIOSET_LABELS, row.tolist(), strict=True)))
        return scores

    return run


CONTENDERS = {
    "AudioTagger": with_tagger,
    "AudioTagger, torch": partial(with_tagger, engine="torch"),
    "AudioTagger, openvino": partial(with_tagger, engine="openvino"),
    "AudioTagger, openvino bfloat16": partial(with_tagger, engine="openvino", compute_type="bfloat16"),
    "pipeline loop": with_pipeline,
    "padded batches": with_padded_batches,
}


def scores_of(tags: dict[str, float]) -> np.ndarray:
    return np.array([tags[label] for label in sorted(tags)], np.float32)


def measure(contender: str, model_dir: str, folder: Path) -> dict[str, float]:
    """Runs one contender, in a separate process."""
    files = sorted(folder.iterdir())
    run = CONTENDERS[contender](model_dir, files)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    scores = run()
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = {"wall_s": wall_s, "cpu": cpu_s / wall_s / len(os.sched_getaffinity(0)), "peak_mb": peak_memory_mb()}
    if contender == "AudioTagger":
        result["max_difference"] = difference_to_one_by_one(model_dir, files[:100], scores)
    return result


def difference_to_one_by_one(model_dir: str, files: list[Path], scores: Scores) -> float:
    from ced_model import AudioTagger

    tagger = AudioTagger(model_dir)
    largest = 0.0
    for path in files:
        alone = scores_of({tag.label: tag.score for tag in tagger(path, top_k=len(tagger.labels))})
        largest = max(largest, float(np.abs(alone - scores[str(path)]).max()))
    return largest


def save_random_model(name: str, folder: str | Path, dtype: str = "float32") -> None:
    import torch

    from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification

    torch.manual_seed(0)
    CedForAudioClassification(CedConfig(name=name)).to(getattr(torch, dtype)).save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for the files, which are kept and used again")
    parser.add_argument("--model", default="ced-tiny")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--model-dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(measure(arguments.contender, arguments.model_dir, arguments.folder)))
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "audio"
        if not folder.exists() or len(list(folder.iterdir())) != arguments.files:
            make_files(folder, arguments.files)
        save_random_model(arguments.model, Path(temporary) / "model")
        audio_s = sum(soundfile.info(path).duration for path in folder.iterdir())
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(arguments.rounds):
            for name in CONTENDERS:
                command = [sys.executable, __file__, "--contender", name, "--folder", str(folder)]
                output = subprocess.check_output([*command, "--model-dir", f"{temporary}/model"], text=True)
                runs[name].append(json.loads(output.splitlines()[-1]))

    def median(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    print(
        f"{arguments.files} files, {audio_s / 3600:.2f} h of audio, {arguments.model} shapes, {arguments.rounds}"
        f" rounds; {describe_machine()}"
    )
    print("| contender | audio s / s | × pipeline loop | CPU use | peak memory |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in CONTENDERS:
        ratios = [loop["wall_s"] / run["wall_s"] for loop, run in zip(runs["pipeline loop"], runs[name], strict=True)]
        print(
            f"| {name} | {audio_s / median(name, 'wall_s'):.0f} | {statistics.median(ratios):.2f}"
            f" | {median(name, 'cpu'):.0%} | {median(name, 'peak_mb'):.0f} MB |"
        )
    print(f"Largest difference to tagging clip by clip: {median('AudioTagger', 'max_difference'):.1e}")


if __name__ == "__main__":
    main()
