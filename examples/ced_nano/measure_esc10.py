# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy on ESC-10: ten everyday classes in clips of 5 s. For evaluation only, not for training.

    python examples/ced_nano/measure_esc10.py ESC10 [MODEL]

ESC10 has one subfolder per class (`001 - Dog bark`, …). File names begin with the fold (`1-100032-A.ogg`). MODEL is
`ced-nano`, a model folder or Hub id, or `yamnet` for the teacher.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ced_model.audio import read_audio
from ced_model.audioset import AUDIOSET_LABELS
from ced_model.tagger import AudioTagger

SAMPLING_RATE = 16000
TOP_K = 5
PROBE_C = 0.1
CLASSES = {  # the corresponding AudioSet classes
    "Dog bark": ("Domestic animals, pets", "Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
    "Rain": ("Rain", "Raindrop", "Rain on surface"),
    "Sea waves": ("Ocean", "Waves, surf"),
    "Baby cry": ("Baby cry, infant cry", "Crying, sobbing"),
    "Clock tick": ("Clock", "Tick", "Tick-tock"),
    "Person sneeze": ("Sneeze",),
    "Helicopter": ("Helicopter",),
    "Chainsaw": ("Chainsaw",),
    "Rooster": ("Chicken, rooster", "Crowing, cock-a-doodle-doo"),
    "Fire crackling": ("Fire", "Crackle"),
}

Measure = Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]]  # clips → probabilities (527), embeddings


def paths_of(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.glob("*/*.ogg") if path.parent.name.split(" - ")[-1] in CLASSES)
    if not paths:
        raise SystemExit(f"{folder} has no clips: expected folders such as '001 - Dog bark'.")
    return paths


def read_clips(folder: Path) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Waveforms at 16 kHz, class indices in `CLASSES`, and folds."""
    names, paths = list(CLASSES), paths_of(folder)
    classes = np.array([names.index(path.parent.name.split(" - ")[-1]) for path in paths])
    return [read_audio(path) for path in paths], classes, np.array([int(path.name.split("-")[0]) for path in paths])


def measure_with_tagger(model: str) -> Measure:
    tagger = AudioTagger(model)

    def measure(clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        scores = np.zeros((len(clips), len(AUDIOSET_LABELS)), np.float32)
        for row, result in zip(scores, tagger.tag(clips, top_k=len(AUDIOSET_LABELS)), strict=True):
            for tag in result.tags:
                row[tag.index] = tag.score
        return scores, tagger.embed(clips)

    return measure


def measure_with_teacher(clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    import yamnet

    teacher = yamnet.teacher()
    return teacher(clips), np.stack([teacher.run(yamnet.patches_of(clip))[1].mean(0) for clip in clips])


def figures_of(scores: np.ndarray, embeddings: np.ndarray, classes: np.ndarray, folds: np.ndarray) -> dict[str, Any]:
    """
    Accuracies as shares of the clips.

    Returns:
        `highest`: The clip's class has the highest score of the ten (the maximum over its AudioSet classes).
        `top5`: One of the AudioSet classes of the clip's class is among the five highest scores of all 527.
        `probe`: Linear probe on embeddings, cross-validated by fold.
        `per_class`: `highest` and `top5` per class.
    """
    members = [[AUDIOSET_LABELS.index(label) for label in labels] for labels in CLASSES.values()]
    by_class = np.stack([scores[:, indices].max(1) for indices in members], axis=1)
    is_highest = by_class.argmax(1) == classes
    fifth = np.sort(scores, axis=1)[:, -TOP_K]
    is_top = by_class[np.arange(len(classes)), classes] >= fifth
    predicted = np.empty_like(classes)
    for fold in np.unique(folds):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_C, max_iter=2000))
        probe.fit(embeddings[folds != fold], classes[folds != fold])
        predicted[folds == fold] = probe.predict(embeddings[folds == fold])
    per_class = {
        name: {"highest": float(is_highest[classes == i].mean()), "top5": float(is_top[classes == i].mean())}
        for i, name in enumerate(CLASSES)
        if (classes == i).any()
    }
    return {
        "clips": len(classes),
        "highest": float(is_highest.mean()),
        "top5": float(is_top.mean()),
        "probe": float((predicted == classes).mean()),
        "per_class": per_class,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("esc10", type=Path)
    parser.add_argument("model", nargs="?", default="ced-nano")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    measure = measure_with_teacher if options.model == "yamnet" else measure_with_tagger(options.model)
    clips, classes, folds = read_clips(options.esc10)
    figures = figures_of(*measure(clips), classes, folds)
    print(
        f"{options.model}, {figures['clips']} clips: highest {figures['highest']:.1%}, "
        f"top 5 {figures['top5']:.1%}, probe {figures['probe']:.1%}"
    )
    for name, shares in figures["per_class"].items():
        print(f"  {name:15} highest {shares['highest']:4.0%}  top 5 {shares['top5']:4.0%}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
