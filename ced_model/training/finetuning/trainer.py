# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The `Trainer` for labelled clips."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from ...engines.torch import activate, check_device
from ...evaluation import ClassificationMetrics, classification_metrics
from ...labelled import SINGLE_LABEL
from ...messages import OptionError
from ...strong_labels import StrongClips
from ...tagger import AudioTagger
from ..shared_trainer import CedTrainer, EpochSampler, loading_arguments
from .clips import FinetuningClips
from .dataset import ClipCollator, ClipDataset
from .events import EventDataset
from .options import FinetuningOptions

SELECTION = "selection"  # the metric for the choice of the best epoch
MAX_VALIDATION_S = 60.0  # of each clip in the validation after each epoch; at the end, complete clips are used
MAX_CLASS_WEIGHT = 10.0  # a class with a single clip must not dominate the others
ENCODER_SHARE = 0.1  # of the head's learning rate, for weights that are trained already


def make_arguments(
    options: FinetuningOptions, folder: Path, has_validation: bool, overrides: Mapping[str, Any]
) -> TrainingArguments:
    """
    The arguments of `Trainer`, from `options` and `overrides`.

    Raises:
        OptionError: if the device does not exist, or `overrides` has the output folder.
        ValueError: if `overrides` has a field or value that transformers does not support.
    """
    if options.device is not None:
        check_device(options.device)
    if "output_dir" in overrides:
        raise OptionError(
            "output_dir", overrides["output_dir"], "no such training argument, use the argument `output_dir` instead"
        )
    values: dict[str, Any] = {
        **loading_arguments(overrides.get("dataloader_num_workers")),
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # share of all steps
        "weight_decay": 0.01,
        "eval_strategy": "epoch" if has_validation else "no",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,  # the best and the last
        "load_best_model_at_end": has_validation,
        "metric_for_best_model": SELECTION if has_validation else None,
        "greater_is_better": True if has_validation else None,
        "report_to": ["tensorboard"] if find_spec("tensorboard") else [],
        "seed": options.seed,
        "use_cpu": options.device == "cpu",
        "restore_callback_states_from_checkpoint": True,  # the remaining patience
    }
    try:
        return TrainingArguments(output_dir=str(folder), **{**values, **overrides})
    except TypeError as error:  # an unknown name
        raise ValueError(f"`training_arguments`: {error}") from error


class FinetuningTrainer(CedTrainer):
    """
    transformers' Trainer with class weights, soft labels for single-label clips (mixup), a separate learning rate for
    the encoder, and clips of similar length in a batch.
    """

    loss_is_scaled_for_ga = False  # the loss is a mean over the clips of a batch

    def __init__(
        self,
        *,
        problem_type: str,
        weights: torch.Tensor | None = None,
        encoder_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.problem_type = problem_type
        self.weights = weights
        self.encoder_learning_rate = encoder_learning_rate

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        logits, labels = outputs["logits"].float(), inputs["labels"]
        weights = None if self.weights is None else self.weights.to(logits.device)
        if self.problem_type == SINGLE_LABEL:
            smoothing = self.args.label_smoothing_factor
            loss = nn.functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
        elif labels.ndim == 3:  # labels of steps, -1 for padding
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits, labels.clamp(min=0), pos_weight=weights, reduction="none"
            )
            loss = losses[labels >= 0].mean()
        else:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            network: Any = self.model
            head = {id(p) for name, p in network.named_parameters() if "outputlayer" in name}
            rates = {True: self.args.learning_rate, False: self.encoder_learning_rate or self.args.learning_rate}
            groups = []
            for group in optimizer.param_groups:
                for is_head, rate in rates.items():
                    parameters = [p for p in group["params"] if (id(p) in head) == is_head]
                    groups += [{**group, "params": parameters, "lr": rate}] if parameters else []
            optimizer.param_groups = groups
        return self.optimizer


def make_trainer(
    model: Any,
    tagger: AudioTagger,
    clips: FinetuningClips,
    crop: int,
    options: FinetuningOptions,
    arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
) -> FinetuningTrainer:
    rate, problem_type = tagger.sampling_rate, clips.training.problem_type
    make_dataset: Any = ClipDataset
    longest = round(MAX_VALIDATION_S * rate)
    if isinstance(clips.training, StrongClips):
        config: Any = model.config
        step = config.patch_size * tagger.feature_extractor.hop_size
        make_dataset, longest = partial(EventDataset, step=step), crop
    training = make_dataset(clips.training, clips.training_lengths, rate, crop, seed=options.seed, mixup=options.mixup)
    batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    own_callbacks: list[TrainerCallback] = []
    validation = None
    if clips.validation is not None:
        order = np.argsort(clips.validation_lengths)  # clips of similar length in a batch
        lengths = [clips.validation_lengths[index] for index in order]
        validation = make_dataset(clips.validation.select(order.tolist()), lengths, rate, longest)
        if options.patience and arguments.load_best_model_at_end:
            own_callbacks.append(EarlyStoppingCallback(options.patience))
    weights = None
    if options.class_weights == "balanced":
        targets = training.all_targets() if isinstance(training, EventDataset) else clips.training.targets
        weights = class_weights(targets, problem_type)
    default_rate = arguments.learning_rate * (1.0 if options.lora is not None else ENCODER_SHARE)
    return FinetuningTrainer(
        sampler=EpochSampler(np.array(training.lengths), batch_size, options.seed),
        model=model,
        args=arguments,
        data_collator=ClipCollator(tagger.feature_extractor, masks=options.masks, patch_size=model.config.patch_size),
        train_dataset=training,
        eval_dataset=validation,
        processing_class=tagger.feature_extractor,
        compute_metrics=partial(_compute_metrics, problem_type=problem_type),
        callbacks=[*own_callbacks, *callbacks],
        problem_type=problem_type,
        weights=weights,
        encoder_learning_rate=options.encoder_learning_rate or default_rate,
    )


def class_weights(targets: np.ndarray, problem_type: str) -> torch.Tensor:
    """
    Weights that balance the classes in the loss.

    Args:
        targets: Targets of the training clips, of shape `(clips, classes)`.

    Returns:
        float32 of shape `(classes,)`. Single-label: clips / (classes · clips of the class), for the cross-entropy.
        Multi-label: clips without the class / clips with it, for the positives in the binary cross-entropy. Both are
        limited to 1/10 … 10; a class without clips has 1.
    """
    positives = targets.sum(axis=0, dtype=np.float64)
    if problem_type == SINGLE_LABEL:
        weights = len(targets) / (targets.shape[1] * np.maximum(positives, 1e-9))
    else:
        weights = (len(targets) - positives) / np.maximum(positives, 1e-9)
    weights = np.where(positives > 0, weights.clip(1 / MAX_CLASS_WEIGHT, MAX_CLASS_WEIGHT), 1.0)
    return torch.from_numpy(weights.astype(np.float32))


def _compute_metrics(prediction: EvalPrediction, problem_type: str) -> dict[str, float]:
    logits = torch.as_tensor(prediction.predictions).float()
    if not torch.isfinite(logits).all():
        raise ValueError("The model's outputs are no longer finite: lower the learning rate.")
    scores = activate(logits, problem_type).numpy()
    is_single = problem_type == SINGLE_LABEL
    if logits.ndim == 3:  # of steps
        is_step = np.asarray(prediction.label_ids)[..., 0] >= 0
        scores, targets = scores[is_step], np.asarray(prediction.label_ids)[is_step] >= 0.5
        metrics = classification_metrics(targets, scores, problem_type=problem_type)
        return {**metrics.summary(), SELECTION: _selection(metrics)}
    targets = np.eye(logits.shape[1])[prediction.label_ids] if is_single else np.asarray(prediction.label_ids) >= 0.5
    metrics = classification_metrics(targets, scores, problem_type=problem_type)
    return {**metrics.summary(), SELECTION: _selection(metrics)}


def _selection(metrics: ClassificationMetrics) -> float:
    """
    The metric for the best epoch: accuracy, or mean average precision for multi-label data. With few clips, both are
    often equal for several epochs, so a better Brier score decides.
    """
    if metrics.problem_type == SINGLE_LABEL:
        # The Brier score has the weight of one more clip, at most that of one right answer.
        return (metrics.top_1 * metrics.num_clips + 1 - metrics.brier / 2) / (metrics.num_clips + 1)
    return (metrics.mean_average_precision + 1e-6 * (1 - metrics.brier)) / (1 + 1e-6)
