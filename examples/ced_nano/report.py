# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""What ced-nano was made of and what it can do, as tables, pictures and a file of figures: WORK/report/."""

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
from scenes import Shards
from sources import SAMPLING_RATE, Bank

matplotlib.use("Agg")
ABLATIONS = ("consistent", "inconsistent", "none")


def write(work: Path) -> None:
    folder = work / "report"
    folder.mkdir(exist_ok=True)
    prior, examples = teacher_statistics(work)
    students = {"class priors": heldout.constant(prior)}
    for name, path in (("pretrained", work / "pretrain" / "student"), ("ced-nano", work / "ced-nano")):
        students[name] = heldout.scorer_of(CedForAudioClassification.from_pretrained(path))
    agreements = {name: heldout.agreement(work, score) for name, score in students.items()}
    sounds = heldout.name_sounds(work, students["ced-nano"])
    figures = {
        "sources": source_hours(work),
        "agreement": {name: {on: _summary(m) for on, m in parts.items()} for name, parts in agreements.items()},
        "sounds": sounds,
        "named": heldout.named(sounds),
        "without_example": [label for label, seen in zip(AUDIOSET_LABELS, examples, strict=True) if not seen],
        "ablation": ablation(work),
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    write_classes(
        folder / "classes.csv", agreements["ced-nano"]["scenes"], agreements["ced-nano"]["recordings"], examples
    )
    (folder / "tables.md").write_text(tables(figures), encoding="utf-8")
    draw_pretraining(work, folder / "pretraining.png")
    draw_ablation(work, folder / "ablation.png")


def teacher_statistics(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's mean probability of each class (527,), and how many windows of training are tagged with it."""
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
    """For each package: recordings and hours, of which held out."""
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"recordings": 0, "hours": 0.0, "heldout": 0})
    for row in Bank(work / "bank").rows:
        package = rows[row["source"].split("/")[0]]
        package["recordings"] += 1
        package["hours"] += row["samples"] / SAMPLING_RATE / 3600
        package["heldout"] += row["split"] == "heldout"
    return [{"package": name, **rows[name]} for name in sorted(rows, key=lambda name: -rows[name]["hours"])]


def ablation(work: Path) -> list[dict[str, Any]]:
    """Agreement and distillation loss on held-out scenes of each run of the ablation."""
    rows = []
    for path in sorted((work / "ablation").glob("*-*/config.json")):
        name, seed = path.parent.name.rsplit("-", 1)
        score = heldout.scorer_of(CedForAudioClassification.from_pretrained(path.parent))
        metrics = heldout.on_scenes(work, score)
        loss = heldout.distillation_loss(work, score)
        rows.append({"augmentation": name, "seed": int(seed), "loss": loss, **_summary(metrics)})
    return rows


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


def tables(figures: dict[str, Any]) -> str:
    sources = figures["sources"]
    total = ["all", *(sum(row[key] for row in sources) for key in ("recordings", "hours", "heldout"))]
    parts = [
        _table(
            ("package", "recordings", "hours", "held out"),
            ((r["package"], r["recordings"], f"{r['hours']:.2f}", r["heldout"]) for r in sources),
        ),
        f"| {total[0]} | {total[1]} | {total[2]:.1f} | {total[3]} |\n",
        _table(
            ("", "on", "mAP", "mAUC", "top-1"),
            (
                (name, on, f"{m['mAP']:.3f}", f"{m['mAUC']:.3f}", f"{m['top_1']:.1%}")
                for name, parts in figures["agreement"].items()
                for on, m in parts.items()
            ),
        ),
        _table(
            ("sound", "recording", "place", "teacher's", "top 5 of ced-nano"),
            (
                (row["sound"], _short(row["source"]), row["student"]["rank"], row["teacher"]["rank"], _top(row))
                for row in figures["sounds"]
            ),
        ),
        f"Named: {sum(figures['named'].values())} of {len(figures['named'])}.\n",
        _table(
            ("augmentation", "seed", "loss", "mAP", "mAUC", "top-1"),
            (
                (
                    r["augmentation"],
                    r["seed"],
                    f"{r['loss']:.4f}",
                    f"{r['mAP']:.3f}",
                    f"{r['mAUC']:.3f}",
                    f"{r['top_1']:.1%}",
                )
                for r in figures["ablation"]
            ),
        ),
        f"Without any example: {'; '.join(figures['without_example'])}\n",
    ]
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _short(source: str) -> str:
    return f"{source.split('/')[0]}: {source.rsplit('/', 1)[1]}"


def _top(row: dict[str, Any]) -> str:
    return ", ".join(f"{label} {score:.2f}" for label, score in row["student"]["top"])


def draw_pretraining(work: Path, path: Path) -> None:
    rows = [json.loads(line) for line in open(work / "pretrain" / "log.jsonl", encoding="utf-8")]
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


def draw_ablation(work: Path, path: Path) -> None:
    """Distillation loss on held-out files during the runs of the ablation."""
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for color, name in zip(("tab:blue", "tab:orange", "tab:gray"), ABLATIONS, strict=True):
        for number, folder in enumerate(sorted((work / "ablation").glob(f"{name}-*.training"))):
            states = sorted(
                folder.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name.split("-")[1])
            )
            history = json.loads(states[-1].read_text())["log_history"]
            points = [(row["step"], row["loss"]) for row in history if "loss" in row]
            ax.plot(*zip(*points, strict=True), color=color, linewidth=1, label=None if number else name)
    ax.set(xlabel="steps", ylabel="training loss")
    ax.legend(title="augmentation")
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
