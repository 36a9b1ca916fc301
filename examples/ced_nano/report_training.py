# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a training with `train_gpu.py` on held-out recordings; writes tables, a plot and a JSON file.

    python examples/ced_nano/report_training.py WORK OUT --esc10 ESC10 --before ced-nano [--publish OUT/model]

OUT has the log and the model of the training. The results are written to OUT/report. `--publish MODEL` also copies this
model, the tables and the plot into the repository.
"""

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt

import heldout
import measure_esc10
import publish
import report
import yamnet
from bank import MIN_PROBABILITY, hours_by, weights_of
from batches import LogMel, samples_of
from ced_model import CedForAudioClassification
from ced_model.audioset import AUDIOSET_LABELS
from ced_model.bundled import resolve_model
from mixing_torch import TorchMixer
from sources import SAMPLING_RATE, Bank

matplotlib.use("Agg")
SCENES = 256  # of 10 s
SEEN_CLIP = "1-19898-C.ogg"  # clip of ESC-10 that was used in the first trainings of ced-nano, from openttd-opensfx
SHOWN = ("clip", "patch_logits", "embedding")  # losses in the picture


def class_rows(bank: Bank, taught: np.ndarray) -> list[dict[str, Any]]:
    """Rows for `bank.hours_by`, with the teacher's most probable classes."""
    rows = []
    for row, scores in zip(bank.rows, taught, strict=False):
        first = [i for i in np.argsort(-scores)[:5] if scores[i] >= MIN_PROBABILITY]
        rows.append({**row, "taught": {AUDIOSET_LABELS[i]: float(scores[i]) for i in first}})
    return rows


class Measured:
    """Held-out recordings and scenes with the teacher's probabilities, which are computed once and stored."""

    def __init__(self, work: Path, cache: Path):
        self.bank = Bank(work / "bank")
        held = [(index, row) for index, row in enumerate(self.bank.rows) if row["split"] == "heldout"]
        self.sources = [row["source"] for _, row in held]
        self.recordings = [self.bank.waveform(index)[: int(heldout.CLIP_S * SAMPLING_RATE)] for index, _ in held]
        self.taught = np.load(work / "bank" / "heard.npz")["mean"].astype(np.float32)
        means = self.taught[[index for index, _ in held]]
        weights = weights_of(np.where(means >= MIN_PROBABILITY, means, 0), [row["group"] for _, row in held], 0.6)
        samples = torch.from_numpy(np.concatenate(self.recordings) * 32767).to(torch.int16)
        mixer = TorchMixer(samples, torch.tensor([len(x) for x in self.recordings]), torch.from_numpy(weights))
        mixes = [
            mixer.batch(16, samples_of(20), torch.Generator().manual_seed(1000 + number))
            for number in range(SCENES // 16)
        ]
        self.scenes = list(torch.cat(mixes).numpy())
        path = cache / "heldout.npz"
        if not path.exists():
            by_teacher = {"recordings": self.recordings, "scenes": self.scenes}
            np.savez(
                path,
                **{name: np.concatenate([yamnet.teacher()(x[None]) for x in xs]) for name, xs in by_teacher.items()},
            )
        self.answers = {name: values for name, values in np.load(path).items()}

    def agreement(self, model: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Metrics of a model, and its scores."""
        student = CedForAudioClassification.from_pretrained(resolve_model(model), dtype=torch.float32).eval()
        log_mel = LogMel()

        @torch.inference_mode()
        def score(waveform: np.ndarray) -> np.ndarray:
            padded = np.pad(waveform, (0, max(0, 2400 - len(waveform))))
            return student(log_mel(torch.from_numpy(padded)[None])).logits[0].sigmoid().numpy()

        scores = {name: np.stack([score(x) for x in getattr(self, name)]) for name in ("recordings", "scenes")}
        metrics = {name: heldout.metrics_of(self.answers[name], scores[name]) for name in scores}
        return metrics, scores


def named_sounds(measured: Measured, scores: np.ndarray) -> list[dict[str, Any]]:
    """The same rows as `heldout.name_sounds`."""
    rows = []
    for source, student, teacher in zip(measured.sources, scores, measured.answers["recordings"], strict=True):
        for sound, (labels, patterns) in heldout.NAMED_SOUNDS.items():
            if any(heldout.fnmatch(source, pattern) for pattern in patterns):
                row: dict[str, Any] = {"sound": sound, "source": source}
                for who, values in (("student", student), ("teacher", teacher)):
                    order = np.argsort(-values, kind="stable")
                    places = [int(np.flatnonzero(order == AUDIOSET_LABELS.index(label))[0]) + 1 for label in labels]
                    row[who] = {"rank": min(places), "top": [(AUDIOSET_LABELS[i], float(values[i])) for i in order[:5]]}
                rows.append(row)
    return rows


def esc10_figures(folder: Path, model: str) -> dict[str, Any]:
    """Accuracy on ESC-10 with and without the clip that was used in training."""
    clips, classes, folds = measure_esc10.read_clips(folder)
    names = [path.name for path in measure_esc10.paths_of(folder)]
    measure = measure_esc10.measure_with_teacher if model == "yamnet" else measure_esc10.measure_with_tagger(model)
    scores, embeddings = measure(clips)
    unseen = np.array([name != SEEN_CLIP for name in names])
    figures = measure_esc10.figures_of(scores, embeddings, classes, folds)
    rest = measure_esc10.figures_of(*(x[unseen] for x in (scores, embeddings, classes, folds)))
    return figures | {"without_seen": {key: rest[key] for key in ("clips", "highest", "top5", "probe")}}


def draw_log(log: Path, path: Path) -> None:
    rows = list({row["step"]: row for row in map(json.loads, log.read_text("utf-8").splitlines())}.values())
    rows.sort(key=lambda row: row["step"])
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(10, 3), layout="constrained")
    for ax, name in zip(axes, SHOWN, strict=True):
        ax.plot([row["hours"] for row in rows], [row[name] for row in rows], color="tab:blue", linewidth=1)
        ax.set(xlabel="hours of mixes", title=f"loss: {name.replace('_', ' ')}")
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def tables(figures: dict[str, Any]) -> dict[str, str]:
    agreement = (
        (name, on, f"{m['mAP']:.3f}", f"{m['mAUC']:.3f}", f"{m['top_1']:.1%}")
        for name, parts in figures["agreement"].items()
        for on, m in parts.items()
    )
    esc10, classes = figures["esc10"], measure_esc10.CLASSES
    rows = [
        (name, *(f"{f[key]:.1%}" for f in (e, e["without_seen"]) for key in ("highest", "top5", "probe")))
        for name, e in esc10.items()
    ]
    by_class = [
        (label, *(f"{e['per_class'][label][key]:.0%}" for e in esc10.values() for key in ("highest", "top5")))
        for label in classes
    ]
    return {
        "agreement": report._table(("", "on", "mAP", "mAUC", "top-1"), agreement),
        "esc10": report._table(
            ("", "highest score", "top 5", "probe", "without the clip: highest score", "top 5", "probe"), rows
        ),
        "esc10_classes": report._table(
            ("", *(f"{name}: {kind}" for name in esc10 for kind in ("highest score", "top 5"))), by_class
        ),
        "named": report.named_table(figures),
    }


def write_classes(path: Path, figures: dict[str, Any], metrics: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        kinds = ("recordings", "scenes")
        writer.writerow(["class", "training_hours", *(f"{k}{s}" for k in kinds for s in ("", "_ap", "_auc"))])
        hours = figures["hours"]["taught"]
        for label, *items in zip(AUDIOSET_LABELS, *(metrics[kind].per_class for kind in kinds), strict=True):
            cells: Iterable[str] = (cell for item in items for cell in report._class_cells(item))
            writer.writerow([label, f"{hours.get(label, 0):.3f}", *cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--esc10", type=Path, required=True)
    parser.add_argument("--before", default="ced-nano", help="model from which the training started")
    parser.add_argument("--model", type=Path, help="by default OUT/model")
    parser.add_argument("--step", type=int, help="step of the model, by default the last")
    parser.add_argument("--publish", action="store_true", help="replace model, report and card in the repository")
    options = parser.parse_args()
    folder, model = options.out / "report", options.model or options.out / "model"
    for path in (options.work / "bank" / "heard.npz", options.out / "log.jsonl", model / "model.safetensors"):
        if not path.exists():
            raise SystemExit(
                f"{path} does not exist: WORK must be the folder of the recordings, and OUT that of the training."
            )
    measure_esc10.paths_of(options.esc10)
    folder.mkdir(exist_ok=True)
    measured, figures = Measured(options.work, folder), {"agreement": {}, "esc10": {}}
    known = folder / "known.json"  # results of models that do not change
    if not known.exists():
        metrics, _ = measured.agreement(options.before)
        figures["agreement"]["before"] = {on: report._summary(m) for on, m in metrics.items()}
        for name, path in (("YAMNet", "yamnet"), ("before", options.before)):
            figures["esc10"][name] = esc10_figures(options.esc10, path)
        known.write_text(json.dumps(figures), encoding="utf-8")
    figures = json.loads(known.read_text(encoding="utf-8"))
    metrics, scores = measured.agreement(str(model))
    figures["agreement"]["ced-nano"] = {on: report._summary(m) for on, m in metrics.items()}
    figures["esc10"]["ced-nano"] = esc10_figures(options.esc10, str(model))
    figures["sounds"] = named_sounds(measured, scores["recordings"])
    figures["named"] = heldout.named(figures["sounds"])
    rows = class_rows(measured.bank, measured.taught)
    figures["hours"] = {key: hours_by(rows, key) for key in ("source", "licence", "taught", "split")}
    figures["sources"] = report.source_hours(options.work)
    log = (options.out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows_of_log = [json.loads(line) for line in log]
    figures["mix_hours"] = max(row["hours"] for row in rows_of_log if row["step"] <= (options.step or row["step"]))
    written = tables(figures)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    (folder / "tables.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    write_classes(folder / "classes.csv", figures, metrics)
    report.write_sources(folder / "sources.csv", figures["sources"])
    report.write_sounds(folder / "sounds.csv", figures["sounds"])
    draw_log(options.out / "log.jsonl", folder / "training.png")
    print("\n".join(f"{name}\n\n{table}" for name, table in written.items()))
    if options.publish:
        publish.publish(model, folder, figures, written)


if __name__ == "__main__":
    main()
