# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card of a fine-tuned model."""

import math
import os
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from transformers import Trainer

from ...bundled import resolve_model
from ...evaluation import Evaluation
from ...event_evaluation import EventEvaluation
from ...labelled import SINGLE_LABEL
from ...model_card import create_model_card
from ...modeling_ced import CedForAudioClassification
from ...strong_labels import StrongClips
from .clips import FinetuningClips
from .model import describe_trained
from .options import FinetuningOptions
from .trainer import FinetuningTrainer


def make_card(
    model: CedForAudioClassification,
    trainer: FinetuningTrainer,
    clips: FinetuningClips,
    options: FinetuningOptions,
    base_model: str,
    name: str,
    evaluation: Evaluation | EventEvaluation | None,
) -> ModelCard:
    is_local = os.path.isdir(resolve_model(base_model))
    base_name = Path(base_model).absolute().name if is_local else base_model
    return create_model_card(
        model,
        model_id=name,
        source=f"Fine-tuned from `{base_name}`.",
        base_model=None if is_local else base_model,
        eval_results=[] if evaluation is None else _eval_results(_figures(evaluation), clips.name),
        datasets=[],
        training_data=_describe_training(trainer, clips, options, base_name) + _describe_certainty(evaluation),
    )


def _figures(evaluation: Evaluation | EventEvaluation) -> dict[str, float]:
    if isinstance(evaluation, Evaluation):
        return evaluation.metrics.summary()
    scores = evaluation.scores
    return {"event_f1": scores.event_based.micro.f_measure, "segment_f1": scores.segment_based.micro.f_measure}


def _eval_results(figures: dict[str, float], data_name: str) -> list[EvalResult]:
    names = {
        "mAP": "Mean average precision",
        "mAUC": "Mean area under the ROC curve",
        "top_1": "Top-1 accuracy",
        "event_f1": "Event-based F1, micro (collar 0.2 s, offsets also 50 % of the length)",
        "segment_f1": "Segment-based F1, micro (1 s)",
    }
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Audio classification",
            dataset_type=data_name,
            dataset_name=data_name,
            dataset_split="validation",
            metric_type=short,
            metric_name=long,
            metric_value=round(figures[short], 4),
        )
        for short, long in names.items()
        if math.isfinite(figures.get(short, math.nan))
    ]


def _describe_certainty(evaluation: Evaluation | EventEvaluation | None) -> str:
    """A sentence with the confidence intervals."""
    shown = {"top_1": "top-1", "mAP": "mAP"}
    bounds = evaluation.intervals if isinstance(evaluation, Evaluation) else {}
    parts = [
        f"{long} {bounds[name][0]:.2f} to {bounds[name][1]:.2f}"
        for name, long in shown.items()
        if name in bounds and math.isfinite(bounds[name][0])
    ]
    return f" 95% confidence intervals for that number of clips: {', '.join(parts)}." if parts else ""


def _describe_training(
    trainer: FinetuningTrainer, clips: FinetuningClips, options: FinetuningOptions, base_name: str
) -> str:
    extractor: Any = trainer.processing_class
    hours = sum(clips.training_lengths) / extractor.sampling_rate / 3600
    length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    kind = "the times of its classes" if isinstance(clips.training, StrongClips) else "any number of classes"
    kind = "one class" if clips.training.problem_type == SINGLE_LABEL else kind
    lines = [
        f"{len(clips.training)} clips ({length}) of `{clips.name}`, each with {kind}, starting from the weights of"
        f" `{base_name}`. Trained: {describe_trained(options)}, with a maximum learning rate of"
        f" {trainer.args.learning_rate:g} for the head"
        + ("" if options.train == "head" else f" and {trainer.encoder_learning_rate:g} for the rest")
        + f", in batches of {trainer.args.train_batch_size}, with seed {options.seed}."
    ]
    extras = {
        "classes balanced by weights in the loss": options.class_weights == "balanced",
        f"mixup (α = {options.mixup:g})": bool(options.mixup),
        "time and frequency masks": options.masks,
    }
    lines += [f"With {', '.join(name for name, is_used in extras.items() if is_used)}."] if any(extras.values()) else []
    if clips.validation is None:
        lines.append(f"No clips were held out; these are the weights after {best_epoch(trainer):g} epochs.")
    else:
        origin = "held out at random, with the same share of each class" if clips.is_held_out else "given separately"
        lines.append(
            f"Validation clips: {len(clips.validation)}, {origin}. They were used to choose the best epoch, number"
            f" {best_epoch(trainer):g} of {trainer.state.epoch or 0:g}, so figures on other recordings may be lower."
        )
    return " ".join(lines)


def best_epoch(trainer: Trainer) -> float:
    state = trainer.state
    epochs: dict[Any, float] = {entry["step"]: entry["epoch"] for entry in state.log_history if "epoch" in entry}
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    return round(epochs.get(best, state.epoch or 0.0), 2)
