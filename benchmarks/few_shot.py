# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of classes learned from few examples: `ced learn` compared with nearest neighbours and `ced finetune`.

    pip install ".[learn,train]"
    python benchmarks/few_shot.py ESC10 [--model mispeech/ced-tiny] [--finetune]

ESC10 is a folder with one subfolder per class; names of clips begin with their fold, as in ESC-10 and ESC-50 (K. J.
Piczak, ACM Multimedia 2015), where clips of the same recording are in the same fold. Examples are drawn from one fold
and clips of another fold are tagged, in both directions and several times; figures are means.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine
from sklearn.metrics import average_precision_score

from ced_model import AudioTagger
from ced_model.head_rows import head_features
from ced_model.own_classes import fit_classes, learn_classes

AUDIOSET = {
    "dog": "Dog",
    "rain": "Rain",
    "sea": "Waves, surf",
    "cry": "Baby cry, infant cry",
    "clock": "Tick-tock",
    "sneez": "Sneeze",
    "helicopter": "Helicopter",
    "chainsaw": "Chainsaw",
    "rooster": "Chicken, rooster",
    "fire": "Crackle",
}
Clips = tuple[np.ndarray, np.ndarray]  # embeddings (clips, width) and class indices (clips,), -1 for no class
Scores = Callable[[AudioTagger, Clips, np.ndarray, int], np.ndarray]


def regression(tagger: AudioTagger, examples: Clips, embeddings: np.ndarray, classes: int) -> np.ndarray:
    """Scores `(clips, classes)` of `ced learn`."""
    targets = examples[1][:, None] == np.arange(classes)
    fitted = fit_classes(head_features(tagger._folder, examples[0]), targets, np.arange(len(targets)))
    return 1 / (1 + np.exp(-(head_features(tagger._folder, embeddings) @ fitted.weight.T + fitted.bias)))


def neighbours(k: int) -> Scores:
    """Share of each class among the k nearest examples by cosine similarity, weighted by the similarity."""

    def scores(tagger: AudioTagger, examples: Clips, embeddings: np.ndarray, classes: int) -> np.ndarray:
        known, asked = (_unit(head_features(tagger._folder, part)) for part in (examples[0], embeddings))
        cosines = asked @ known.T
        found = np.zeros((len(asked), classes + 1))
        for row, nearest in enumerate(np.argsort(-cosines, axis=1)[:, :k]):
            np.add.at(found[row], examples[1][nearest], cosines[row, nearest] / len(nearest))
        return found[:, :classes]

    return scores


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def figures(scores: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Metrics for clips that all have a class."""
    targets = wanted[:, None] == np.arange(scores.shape[1])
    active = scores >= 0.5
    return {
        "top-1": float((scores.argmax(axis=1) == wanted).mean()),
        "mAP": float(np.mean([average_precision_score(targets[:, c], scores[:, c]) for c in range(scores.shape[1])])),
        "precision": float(active[targets].sum() / max(active.sum(), 1)),
        "recall": float(active[targets].mean()),
    }


def directions(folds: np.ndarray, repeats: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.random.Generator]]:
    for (known, asked), seed in itertools.product(itertools.permutations(np.unique(folds), 2), range(repeats)):
        yield folds == known, folds == asked, np.random.default_rng(seed)


def draw(rng: np.random.Generator, known: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` known clips of each class."""
    return np.concatenate([rng.permutation(np.flatnonzero(known & (classes == c)))[:count] for c in np.unique(classes)])


def print_row(*cells: object) -> None:
    print(
        "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def compare(tagger: AudioTagger, clips: Clips, folds: np.ndarray, repeats: int) -> None:
    embeddings, classes = clips
    number = len(np.unique(classes))
    most = min(int(((folds == fold) & (classes == c)).sum()) for fold in np.unique(folds) for c in np.unique(classes))
    methods = {"ced learn": regression, "nearest": neighbours(1), "vote of 5 nearest": neighbours(5)}
    for count in sorted({1, 2, 5, most}):
        for name, scores in methods.items():
            results = []
            for known, asked, rng in directions(folds, repeats):
                chosen = draw(rng, known, classes, count)
                found = scores(tagger, (embeddings[chosen], classes[chosen]), embeddings[asked], number)
                results.append(figures(found, classes[asked]))
            print_row(count, name, *(float(np.mean([row[key] for row in results])) for key in results[0]))


def short_windows(tagger: AudioTagger, paths: list[Path], clips: Clips, folds: np.ndarray) -> None:
    """Classes learned from complete clips, scored in windows of 2 s; the score of a clip is its maximum."""
    embeddings, classes = clips
    windows = [result.embeddings for result in tagger.embeddings(list(map(str, paths)), window_s=2.0, hop_s=1.0)]
    number = len(np.unique(classes))
    results = []
    for known, asked, _ in directions(folds, 1):
        examples = (embeddings[known], classes[known])
        scores = [regression(tagger, examples, windows[index], number).max(axis=0) for index in np.flatnonzero(asked)]
        results.append(figures(np.array(scores), classes[asked]))
    means = [float(np.mean([row[key] for row in results])) for key in results[0]]
    print_row(int(np.bincount(classes).min() / len(np.unique(folds))), "ced learn, in windows of 2 s", *means)


def false_alarms(tagger: AudioTagger, clips: Clips, folds: np.ndarray, repeats: int) -> None:
    """Learns four classes, with three more as counter-examples and three as unknown sounds."""
    embeddings, classes = clips
    print_row("counter-examples", "own classes found at 0.5", "unknown sounds at 0.5 for any class")
    print_row(*["---"] * 3)
    for with_others in (False, True):
        results = []
        for known, asked, rng in directions(folds, repeats):
            order = rng.permutation(np.unique(classes))
            own, others, unknown = order[:4], order[4:7], order[7:10]
            chosen = np.flatnonzero(known & np.isin(classes, [*own, *(others if with_others else [])]))
            place = np.array([list(own).index(c) if c in own else -1 for c in classes])
            scores = regression(tagger, (embeddings[chosen], place[chosen]), embeddings, 4)
            mine = np.flatnonzero(asked & (place >= 0))
            strange = asked & np.isin(classes, unknown)
            results.append(((scores[mine, place[mine]] >= 0.5).mean(), (scores[strange].max(axis=1) >= 0.5).mean()))
        found, false = np.mean(results, axis=0)
        print_row("three kinds" if with_others else "none", float(found), float(false))


def link_examples(folder: Path, paths: list[Path], chosen: np.ndarray, names: dict[str, str] | None = None) -> Path:
    """Makes a folder with one subfolder of links per class, with its name or the one in `names`."""
    for index in chosen:
        name = paths[index].parent.name
        place = folder / (name if names is None else names[name])
        place.mkdir(parents=True, exist_ok=True)
        (place / paths[index].name).symlink_to(paths[index].resolve())
    return folder


def audioset_name(folder: str) -> str:
    """The AudioSet class for a class of ESC-10, or an empty string."""
    return next((own for word, own in AUDIOSET.items() if word in folder.lower()), "")


def time_learning(model: str | None, paths: list[Path], classes: np.ndarray, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chosen = draw(np.random.default_rng(0), np.ones(len(classes), bool), classes, count)
        examples = link_examples(Path(folder, "examples"), paths, chosen)
        begin = time.perf_counter()
        learn_classes(examples, Path(folder, "model"), model=model)
        print(f"\nlearn_classes: {len(chosen)} clips, {count} a class: {time.perf_counter() - begin:.1f} s")


def compare_finetuning(model: str | None, paths: list[Path], clips: Clips, folds: np.ndarray, count: int) -> None:
    """Compares a new head, a head that starts from the rows of AudioSet, and training of the encoder."""
    from ced_model.training.finetuning import FinetuningOptions, finetune

    classes = clips[1]
    folders = sorted({path.parent.name for path in paths})
    audioset = {folder: audioset_name(folder) for folder in folders}
    variants: dict[str, dict[str, Any]] = {
        "--train head": {"train": "head"},
        "--keep-classes, from AudioSet's rows": {"train": "head", "keep_classes": True},
        "--train all": {"train": "all"},
    }
    for variant, fields in variants.items():
        names = audioset if "keep_classes" in fields else None
        results, seconds = [], []
        for known, asked, rng in directions(folds, 1):
            with tempfile.TemporaryDirectory() as folder:
                examples = link_examples(Path(folder, "examples"), paths, draw(rng, known, classes, count), names)
                begin = time.perf_counter()
                done = finetune(
                    examples,
                    Path(folder, "model"),
                    model=model or "ced-nano",
                    options=FinetuningOptions(validation_share=0, batch_size=8, **fields),
                    reading={"problem_type": "multi_label_classification"},
                    training_arguments={"dataloader_num_workers": 0, "disable_tqdm": True, "logging_strategy": "no"},
                )
                seconds.append(time.perf_counter() - begin)
                asked_paths = [str(paths[index]) for index in np.flatnonzero(asked)]
                rows = [
                    {tag.label: tag.score for tag in tags}
                    for tags in AudioTagger(done.folder)(asked_paths, threshold=0)
                ]
                found = np.array([[row[names[name] if names else name] for name in folders] for row in rows])
                results.append(figures(found, classes[asked]))
        means = [float(np.mean([row[key] for row in results])) for key in results[0]]
        print_row(count, f"ced finetune --multi-label {variant} ({np.mean(seconds):.0f} s)", *means)


def compare_with_model(tagger: AudioTagger, paths: list[Path], names: list[str], classes: np.ndarray) -> None:
    """Compares with the AudioSet classes that correspond to the classes of ESC-10."""
    mine = [audioset_name(name) for name in names]
    if not set(mine) <= set(tagger.labels):
        return
    rows = [{tag.label: tag.score for tag in tags} for tags in tagger(list(map(str, paths)), threshold=0)]
    found = figures(np.array([[row[own] for own in mine] for row in rows]), classes)
    print_row(0, "the model's own classes, such as Dog", *found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--finetune", action="store_true")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.glob("*/*") if path.suffix in (".ogg", ".wav"))
    names = sorted({path.parent.name for path in paths})
    classes = np.array([names.index(path.parent.name) for path in paths])
    folds = np.array([path.name.partition("-")[0] for path in paths])
    tagger = AudioTagger(arguments.model)
    print(
        f"{describe_machine()}; {tagger.name}; {len(paths)} clips of {len(names)} classes "
        f"in folds {', '.join(sorted(set(folds)))}\n"
    )
    clips = (tagger.embed(list(map(str, paths))), classes)
    print_row("examples a class", "method", "top-1", "mAP", "precision at 0.5", "recall at 0.5")
    print_row(*["---"] * 6)
    compare_with_model(tagger, paths, names, classes)
    compare(tagger, clips, folds, arguments.repeats)
    short_windows(tagger, paths, clips, folds)
    print()
    false_alarms(tagger, clips, folds, arguments.repeats)
    time_learning(arguments.model, paths, classes, int(np.bincount(classes).min()))
    if arguments.finetune:
        print()
        compare_finetuning(arguments.model, paths, clips, folds, 5)


if __name__ == "__main__":
    main()
