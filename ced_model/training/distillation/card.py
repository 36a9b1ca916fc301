# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card of a distilled student: data, training, and agreement with its teachers."""

import os

import numpy as np
from huggingface_hub import EvalResult, ModelCard
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from ...model_card import create_model_card
from ...modeling_ced import CedForAudioClassification
from .plan import Distillation, Plan, is_default_schedule
from .store import Store, top_k_of

# Names of the metrics on held-out files in the card.
METRIC_NAMES = {
    "bce": "Binary cross-entropy with the teachers' probabilities",
    "prior_bce": "The same for the best constant output",
    "top1": "Top-1 agreement with the teachers",
    "mAP": "mAP against the teachers' tags (probability ≥ 0.5)",
}


def make_card(
    model: CedForAudioClassification, plan: Plan, training: TrainingArguments, result: Distillation
) -> ModelCard:
    results = [
        EvalResult(
            task_type="audio-classification",
            task_name="Audio tagging",
            dataset_type="held-out-audio",
            dataset_name=f"{_counted(plan.split.held_out, plan.store)} held out",
            metric_type=name,
            metric_name=METRIC_NAMES[name],
            metric_value=round(value, 4),
        )
        for name, value in result.metrics.items()
    ]
    return create_model_card(
        model,
        model_id=result.folder.name,
        source="Distilled with `ced distill` from the teachers below, without labels.",
        base_model=plan.student.base_model,
        eval_results=results,
        datasets=[],
        training_data=_describe(plan, training, result),
    )


def _describe(plan: Plan, training: TrainingArguments, result: Distillation) -> str:
    store, arguments, augmentation = plan.store, plan.arguments, plan.store.augmentation
    kind = "the same" if arguments.consistent else "other augmentations of the same"
    consistent = "consistent" if arguments.consistent else "inconsistent"
    hours = store.manifest["audio"]["hours"]
    duration = f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    batch = arguments.batch_size * training.gradient_accumulation_steps * training.world_size
    mixup = f", with mixup (α = {arguments.mixup:g})" if arguments.mixup else ""
    scheduler, optimiser = SchedulerType(training.lr_scheduler_type), OptimizerNames(training.optim)
    schedule = "cosine to a tenth" if is_default_schedule(training) else f"{scheduler.value} schedule"
    warmup = training.get_warmup_steps(result.steps) / result.steps
    steps = ", ".join(f"{step:,}" for step in sorted(result.averaged))
    chosen = "best on held-out files" if plan.holds_out else "at the end"
    rows = {
        "Teachers": ", ".join(f"`{_teacher_name(teacher['name'])}`" for teacher in store.manifest["teachers"]),
        "Targets": f"the teachers' mean probabilities: the {top_k_of(store.manifest)} highest, zero elsewhere",
        "Augmentation": f"circular shift of up to ±{augmentation.max_shift * augmentation.chunk_s:g} s, masks of up to"
        f" {augmentation.max_time_mask} frames and {augmentation.max_freq_mask} mel bins, in {store.num_epochs}"
        " variants of each chunk",
        "Initial weights": plan.student.description,
        "Loss": f"binary cross-entropy{mixup}",
        "Training": f"{result.steps:,} steps of {batch} chunks, out of {_counted(plan.split.training, store)}",
        "Optimiser": f"{optimiser.value}, learning rate {training.learning_rate:g}, warm-up over {warmup:.0%} of the"
        f" steps, {schedule}, weight decay {training.weight_decay:g}",
        "Weights": f"mean of the {len(result.averaged)} checkpoints {chosen} (steps {steps})",
    }
    return (
        f"{duration} of audio, cut into {store.num_chunks:,} chunks of {augmentation.chunk_s:g} s. No labels were used:"
        f" the student learned the teachers' outputs for {kind} augmented chunks ({consistent} ensemble distillation)."
        "\n\n### How it was distilled\n\n| | |\n| --- | --- |\n"
        + "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    )


def _teacher_name(name: str) -> str:
    """A teacher's name without its local folder; the ids of Hub repositories are unchanged."""
    return os.path.basename(name.rstrip("/\\")) if name.startswith((".", "~", os.sep)) or ":" in name else name


def _counted(chunks: np.ndarray, store: Store) -> str:
    files = len(set(store.chunks["path"].take(chunks).to_pylist()))
    return f"{len(chunks):,} chunks of {files:,} file{'s' * (files != 1)}"
