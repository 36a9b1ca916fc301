# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the training data and the evaluation of ced-nano to WORK/report/, as tables, plots and a JSON file."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from scipy.special import expit

import heldout
import yamnet
from ced_model import CedForAudioClassification
from ced_model.audioset import AUDIOSET_LABELS
from ced_model.evaluation import ClassificationMetrics
from mixing import SCENE_S
from scenes import Shards
from sources import SAMPLING_RATE, Bank

matplotlib.use("Agg")


def write(work: Path) -> None:
    folder = work / "report"
    folder.mkdir(exist_ok=True)
    prior, examples = teacher_statistics(work)
    folders = {
        "pretrained": work / "pretrain" / "student",
        "distilled": work / "distilled",
        "ced-nano": work / "packed",
    }
    students = {"class priors": heldout.constant(prior)}
    for name, path in folders.items():
        students[name] = heldout.scorer_of(CedForAudioClassification.from_pretrained(path))
    agreements = {name: heldout.agreement(work, score) for name, score in students.items()}
    sounds = heldout.name_sounds(work, students["ced-nano"])
    count_named = {
        name: sum(heldout.named(heldout.name_sounds(work, students[name])).values())
        for name in ("pretrained", "distilled")
    }
    figures = {
        "sources": source_hours(work),
        "scene_hours": len(Shards(work / "shards" / "train")) * SCENE_S / 3600,
        "agreement": {name: {on: _summary(m) for on, m in parts.items()} for name, parts in agreements.items()},
        "sounds": sounds,
        "named": heldout.named(sounds),
        "named_by_parts": count_named,
        "augmented": {name: heldout.under_augmentation(work, path) for name, path in folders.items()},
        "without_example": [label for label, seen in zip(AUDIOSET_LABELS, examples, strict=True) if not seen],
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    write_classes(
        folder / "classes.csv", agreements["ced-nano"]["scenes"], agreements["ced-nano"]["recordings"], examples
    )
    (folder / "tables.json").write_text(json.dumps(tables(figures), indent=1), encoding="utf-8")
    draw_pretraining(work, folder / "pretraining.png")
    draw_distillation(work, folder / "distillation.png")
    write_sources(folder / "sources.csv", figures["sources"])
    write_sounds(folder / "sounds.csv", sounds)


def teacher_statistics(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's mean probability of each class (527,), and the number of training windows with this tag."""
    shards, means = Shards(work / "shards" / "train"), []
    examples = np.zeros(len(AUDIOSET_LABELS), int)
    indices = yamnet.teacher().class_indices
    for name in shards.names:
        probabilities = expit(shards.arrays[name][1][:].astype(np.float32)).reshape(-1, len(indices))
        means.append(probabilities.mean(0))
        examples[indices] += (probabilities >= heldout.TAG).sum(0)
    prior = np.zeros(len(AUDIOSET_LABELS), np.float32)
    prior[indices] = np.mean(means, axis=0)
    return prior, examples


def source_hours(work: Path) -> list[dict[str, Any]]:
    """Recordings, hours and held-out recordings of each package."""
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"recordings": 0, "hours": 0.0, "heldout": 0})
    for row in Bank(work / "bank").rows:
        package = rows[row["source"].split("/")[0]]
        package["recordings"] += 1
        package["hours"] += row["samples"] / SAMPLING_RATE / 3600
        package["heldout"] += row["split"] == "heldout"
    return [{"package": name, **rows[name]} for name in sorted(rows, key=lambda name: -rows[name]["hours"])]


def _summary(metrics: ClassificationMetrics) -> dict[str, float]:
    classes = sum(item.positives > 0 for item in metrics.per_class)
    return {
        "mAP": metrics.mean_average_precision,
        "mAUC": metrics.mean_auc,
        "top_1": metrics.top_1,
        "clips": metrics.num_clips,
        "classes": classes,
    }


def write_classes(
    path: Path, scenes: ClassificationMetrics, recordings: ClassificationMetrics, examples: np.ndarray
) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        header = ["class", "training_windows", "scenes", "scenes_ap", "scenes_auc"]
        writer.writerow([*header, "recordings", "recordings_ap", "recordings_auc"])
        for label, seen, a, b in zip(AUDIOSET_LABELS, examples, scenes.per_class, recordings.per_class, strict=True):
            writer.writerow([label, seen, *_class_cells(a), *_class_cells(b)])


def _class_cells(item: Any) -> list[str]:
    return [str(item.positives)] + [f"{x:.3f}" if np.isfinite(x) else "" for x in (item.average_precision, item.auc)]


def tables(figures: dict[str, Any]) -> dict[str, str]:
    """Markdown tables by their names in the page."""
    return {
        "agreement": _table(
            ("", "on", "mAP", "mAUC", "top-1"),
            (
                (name, on, f"{m['mAP']:.3f}", f"{m['mAUC']:.3f}", f"{m['top_1']:.1%}")
                for name, parts in figures["agreement"].items()
                for on, m in parts.items()
            ),
        ),
        "augmented": _table(
            ("", "loss", "mAP", "top-1"),
            (
                (name, f"{m['bce']:.4f}", f"{m['mAP']:.3f}", f"{m['top1']:.1%}")
                for name, m in figures["augmented"].items()
            ),
        ),
        "named": named_table(figures),
    }


def write_sources(path: Path, sources: list[dict[str, Any]]) -> None:
    """Writes a CSV file with one row per package."""
    rows = ((row["package"], row["recordings"], f"{row['hours']:.3f}", row["heldout"]) for row in sources)
    _write_csv(path, ("package", "recordings", "hours", "held_out"), rows)


def write_sounds(path: Path, sounds: list[dict[str, Any]]) -> None:
    """Writes a CSV file with one row per recording of the twelve sounds: the best rank of the sound's classes."""
    rows = (
        (row["sound"], _short(row["source"]), row["student"]["rank"], row["teacher"]["rank"], _top(row))
        for row in sounds
    )
    _write_csv(path, ("sound", "recording", "place", "teachers_place", "top_5_of_ced_nano"), rows)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def named_table(figures: dict[str, Any]) -> str:
    return _table(
        ("sound", "recordings", "in the top 5", "named"),
        (
            (sound, len(p), sum(place <= 5 for place in p), "yes" if figures["named"][sound] else "**no**")
            for sound, p in _places(figures["sounds"]).items()
        ),
    )


def _places(sounds: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The ranks of each of the twelve sounds, one per recording."""
    places: dict[str, list[int]] = defaultdict(list)
    for row in sounds:
        places[row["sound"]].append(row["student"]["rank"])
    return places


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _short(source: str) -> str:
    return f"{source.split('/')[0]}: {source.rsplit('/', 1)[1]}"


def _top(row: dict[str, Any]) -> str:
    return ", ".join(f"{label} {score:.2f}" for label, score in row["student"]["top"])


def draw_pretraining(work: Path, path: Path) -> None:
    lines = (work / "pretrain" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = list({row["step"]: row for row in map(json.loads, lines)}.values())  # steps may repeat after interruptions
    rows.sort(key=lambda row: row["step"])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    examples = [row["examples"] / 1e6 for row in rows]
    for ax, name, title in zip(
        axes, ("classes", "embedding"), ("cross-entropy, summed over classes", "error of the embedding"), strict=True
    ):
        ax.plot(examples, [row[name] for row in rows], color="tab:blue", linewidth=1)
        ax.set(xlabel="windows of 0.96 s (millions)", title=title)
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _history(folder: Path, key: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Steps and logged values of a training run."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name.split("-")[1]))
    history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"]
    rows = [row for row in history if key in row]
    return tuple(row["step"] for row in rows), tuple(row[key] for row in rows)


def draw_distillation(work: Path, path: Path) -> None:
    """Plots the loss of the distillation, on training files and on held-out files."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    folder = work / "distilled.training"
    axes[0].plot(*_history(folder, "loss"), color="tab:blue", linewidth=1, label="training")
    axes[0].plot(*_history(folder, "eval_bce"), "o-", color="tab:orange", markersize=4, label="held out")
    axes[0].legend()
    axes[1].plot(*_history(folder, "eval_mAP"), "o-", color="tab:orange", markersize=4)
    for ax, title in zip(axes, ("binary cross-entropy", "mAP against YAMNet's tags, held out"), strict=True):
        ax.set(xlabel="steps", title=title)
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
