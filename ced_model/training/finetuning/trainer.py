# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""transformers' `Trainer` for labelled clips."""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalPrediction

from ...evaluation import ClassificationMetrics, classification_metrics
from ...labelled import SINGLE_LABEL
from ...tagger import AudioTagger
from .arguments import SELECTION, FinetuningOptions
from .checkpoints import STATE_FILE
from .clips import FinetuningClips
from .dataset import ClipCollator, ClipDataset, LengthGroupedOrder

MAX_VALIDATION_S = 60.0  # of each clip, in the validation of each epoch; at the end, clips are validated whole
MAX_CLASS_WEIGHT = 10.0  # a class with a single clip must not drown the others
ENCODER_SHARE = 0.1  # of the head's learning rate, for weights that are learnt already


class FinetuningTrainer(Trainer):
    """
    transformers' Trainer with class weights, soft labels for one class per clip (mixup), a learning rate of its own
    for the encoder, and clips of similar length in a batch.
    """

    loss_is_scaled_for_ga = False  # it is a mean over the clips of a batch

    def __init__(
        self,
        *args: Any,
        problem_type: str,
        weights: torch.Tensor | None = None,
        encoder_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
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
        else:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
        return (loss, outputs) if return_outputs else loss

    def finish_from(self, checkpoint: Path) -> None:
        """Takes the state that training ended in, in place of training: a finished Trainer would go a step too far."""
        self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        best = self.state.best_model_checkpoint
        if not self.args.load_best_model_at_end or best is None or not os.path.isdir(best):
            best = str(checkpoint)
        self._load_from_checkpoint(best)

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

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not re.search(r"pos_embed|cls_token|init_bn", name)]

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader: Any = super()._get_dataloader(*args, **kwargs)
        # Seeds of workers would be drawn from the global generator, and how often depends on whether the run was
        # resumed. That is left to dropout.
        getattr(loader, "base_dataloader", loader).generator = torch.Generator()
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch_size = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        dataset: Any = train_dataset or self.train_dataset
        return LengthGroupedOrder(dataset, batch_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return LengthGroupedOrder(eval_dataset, self.args.eval_batch_size * self.args.world_size)


class EpochCallback(TrainerCallback):
    """Tells a [`ClipDataset`] which epoch it is; accelerate does not always pass that on."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.epoch = int(state.epoch or 0)


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
    training = ClipDataset(clips.training, clips.training_lengths, rate, crop, seed=options.seed, mixup=options.mixup)
    own_callbacks: list[TrainerCallback] = [EpochCallback(training)]
    validation = None
    if clips.validation is not None:
        validation = ClipDataset(clips.validation, clips.validation_lengths, rate, round(MAX_VALIDATION_S * rate))
        if options.patience and arguments.load_best_model_at_end:
            own_callbacks.append(EarlyStoppingCallback(options.patience))
    shown = [callback for callback in callbacks if isinstance(callback, ProgressCallback)]
    is_balanced = options.class_weights == "balanced"
    default_rate = arguments.learning_rate * (1.0 if options.lora is not None else ENCODER_SHARE)
    trainer = FinetuningTrainer(
        model=model,
        args=arguments,
        data_collator=ClipCollator(tagger.feature_extractor, masks=options.masks),
        train_dataset=training,
        eval_dataset=validation,
        processing_class=tagger.feature_extractor,
        compute_metrics=partial(_compute_metrics, problem_type=problem_type),
        callbacks=[*own_callbacks, *(callback for callback in callbacks if callback not in shown)],
        problem_type=problem_type,
        weights=class_weights(clips.training.targets, problem_type) if is_balanced else None,
        encoder_learning_rate=options.encoder_learning_rate or default_rate,
    )
    if shown:
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(shown[0])
    return trainer


def class_weights(targets: np.ndarray, problem_type: str) -> torch.Tensor:
    """
    Weights that balance the classes in the loss.

    Args:
        targets: of the training clips, of shape `(clips, classes)`.

    Returns:
        float32 of shape `(classes,)`. Single-label: clips / (classes · clips of the class), for the cross-entropy.
        Multi-label: clips without the class / clips with it, for the positives in the binary cross-entropy. Both are
        kept within 1/10 and 10; a class without clips has 1.
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
        raise ValueError("The model's outputs are not numbers any more: lower the learning rate.")
    if problem_type == SINGLE_LABEL:
        targets = np.eye(logits.shape[1])[prediction.label_ids]
        scores = logits.softmax(dim=-1).numpy()
    else:
        targets = np.asarray(prediction.label_ids) >= 0.5
        scores = logits.sigmoid().numpy()
    metrics = classification_metrics(targets, scores, problem_type=problem_type)
    return {**metrics.summary(), SELECTION: _selection(metrics)}


def _selection(metrics: ClassificationMetrics) -> float:
    """
    What the best epoch has the most of: the share of right answers, or mean average precision if clips may have several
    classes. Of few clips both are coarse, so that of equal epochs the one with the better Brier score counts as better.
    """
    if metrics.problem_type == SINGLE_LABEL:
        # As if the Brier score were that of one more clip: no more than a right answer counts.
        return (metrics.top_1 * metrics.num_clips + 1 - metrics.brier / 2) / (metrics.num_clips + 1)
    return (metrics.mean_average_precision + 1e-6 * (1 - metrics.brier)) / (1 + 1e-6)
