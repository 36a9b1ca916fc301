# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Training a student on a store, with transformers' `Trainer` (paper, sections 2 and 3)."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError
from sklearn.metrics import average_precision_score
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...configuration_ced import CedConfig
from ...messages import one_line
from ...modeling_ced import CedForAudioClassification
from ...pretrained import check_output, new_model_folder, save_model_folder
from ..run_folder import FREE_ARGUMENTS, checkpoint_path, last_checkpoint, open_run, run_folder_of
from ..shared_trainer import CedTrainer, EpochSampler, one_line_errors
from .card import METRIC_NAMES, make_card
from .checkpoints import KeepBest, average_checkpoints, choose_checkpoints
from .inputs import DistillationDataset, StoredRows, collate, set_input_statistics, split_by_file
from .options import DistillationArguments
from .plan import Distillation, Plan, make_training_arguments
from .store import Store, open_store
from .student import load_student

logger = logging.getLogger(__name__)

STATISTICS_CHUNKS = 256  # from which the input statistics of a student without weights are computed
TAG_THRESHOLD = 0.5  # probability from which on a class is a tag of the teachers
LOWER_THE_RATE = "lower the learning rate, or make the warm-up longer."


def distill(
    store: str | os.PathLike[str],
    student: str | os.PathLike[str] | CedConfig | CedForAudioClassification,
    output: str | os.PathLike[str],
    arguments: DistillationArguments | None = None,
    *,
    audio: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], object] = logger.info,
) -> Distillation:
    """
    Trains a student on the teachers' outputs, and writes it as a model folder.

    Checkpoints and logs go to `output` with `.training` behind its name; the folder itself appears in one piece at the
    end. Under `accelerate launch` or `torchrun` all processes call this, and the first one writes.

    Args:
        store: A store, made by `ced distill teach`.
        student: `"tiny"`, `"mini"`, `"small"` or `"base"`, a `config.json`, a model folder or a Hub id, see
            `load_student`.
        output: The model folder to write; it must be missing or empty.
        arguments: How to train.
        audio: The folder with the audio; by default where it was when it was taught.
        resume: Whether to continue from the last complete checkpoint, or begin if there is none.
        overwrite: Whether to replace a model folder at `output`, and to discard the checkpoints of an earlier run.
        callbacks: Further callbacks of the `Trainer`; a [`~transformers.ProgressCallback`] replaces its own.
        say: Called with lines about the data, the student, and what was changed or left out; by default they are
            logged.

    Returns:
        [`Distillation`]: what was written.

    Raises:
        `ValueError`: with one line, if the store, the student, the audio or the arguments are wrong or do not fit each
            other, if there is something at `output`, or if the loss is not finite any more.
    """
    target = Path(output).absolute()
    folder = run_folder_of(target)
    plan = make_plan(store, student, folder, arguments or DistillationArguments(), audio)
    config = plan.student.model.config.to_dict()  # Trainer adds to that of the model
    training = make_training_arguments(plan)
    may_replace = overwrite or (resume and folder.is_dir())
    with ExitStack() as stack:
        checkpoint = None
        if training.process_index == 0:
            check_audio(plan.store, plan.audio_root)
            check_output(target, may_replace)
            run = describe_run(student, plan, training)
            checkpoint = stack.enter_context(open_run(folder, run, resume=resume, overwrite=overwrite))
            for line in describe_plan(plan, checkpoint):
                say(line)
        trainer: Any = make_trainer(plan, training, callbacks)
        trainer.accelerator.wait_for_everyone()  # until the first process has prepared the folder
        if training.process_index:
            checkpoint = last_checkpoint(folder)
        averaged = train(trainer, plan, checkpoint)
        weights = average_checkpoints([checkpoint_path(folder, step) for step in averaged])
        result = Distillation(
            folder=target,
            parameters=trainer.model.num_parameters(),
            steps=trainer.state.global_step,
            averaged=averaged,
            metrics=evaluate(trainer, weights) if plan.holds_out else {},
        )
        if trainer.is_world_process_zero():
            model = CedForAudioClassification(CedConfig.from_dict(config)).eval()
            model.load_state_dict(weights)
            write_folder(model, plan, target, make_card(model, plan, training, result), may_replace)
        trainer.accelerator.wait_for_everyone()
    return result


# --- Before training -------------------------------------------------------------------------------------------------


def make_plan(
    store: str | os.PathLike[str],
    student: str | os.PathLike[str] | CedConfig | CedForAudioClassification,
    folder: Path,
    arguments: DistillationArguments,
    audio: str | os.PathLike[str] | None = None,
) -> Plan:
    """Opens the store and loads the student; raises a ValueError if they do not fit. See [`distill`]."""
    opened = open_store(store)
    return Plan(
        store=opened,
        rows=StoredRows(opened),
        audio_root=opened.audio_root if audio is None else Path(audio),
        student=load_student(student, opened, arguments.seed),
        split=split_by_file(opened, arguments.held_out),
        arguments=arguments,
        folder=folder,
    )


def check_audio(store: Store, root: Path) -> None:
    """Raises a ValueError if the audio folder, or a file in it that has chunks, is not there."""
    if not root.is_dir():
        raise ValueError(f"The audio of the store is not at {root}: give the folder with it as `audio`.")
    paths = store.chunks["path"].unique().to_pylist()
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the store's {len(paths)} audio files are not in {root}, such as {missing[0]}: give the"
            " folder that they are in as `audio`."
        )


def describe_plan(plan: Plan, checkpoint: Path | None) -> list[str]:
    """The student, the data, the checkpoint and notes, one line each."""
    store, (training, held_out) = plan.store, plan.split
    parameters = plan.student.model.num_parameters()
    notes = [
        f"student: {plan.student.description}, {parameters:,} parameters, {len(store.labels)} classes",
        f"store: {len(training):,} chunks in {store.num_epochs} variants to train on, {len(held_out):,} held out",
        *plan.student.notes,
    ]
    if checkpoint is not None:
        notes.append(f"continuing from {checkpoint.name}")
    if plan.arguments.held_out and not plan.holds_out:
        notes.append("no files are held out: all chunks are of one file. The last checkpoints are averaged.")
    return notes


def describe_run(
    student: str | os.PathLike[str] | CedConfig | CedForAudioClassification, plan: Plan, training: TrainingArguments
) -> dict[str, Any]:
    """What must be the same for a run to be resumed, as it can be stored in JSON."""
    manifest = plan.store.manifest
    arguments = asdict(plan.arguments)
    further = arguments.pop("training")
    del arguments["workers"]  # it changes no weights
    return {
        "student": str(student) if isinstance(student, str | os.PathLike) else plan.student.model.config.to_diff_dict(),
        "processes": training.world_size,
        **arguments,
        **{name: value for name, value in further.items() if not name.startswith(FREE_ARGUMENTS)},
        "store": {
            name: manifest[name] for name in ("labels", "teachers", "augmentation", "seed", "num_epochs", "num_chunks")
        },
        "chunks trained on": len(plan.split.training),
    }


# --- Training --------------------------------------------------------------------------------------------------------


class DistillationTrainer(CedTrainer):
    """A `Trainer` whose loss is the binary cross-entropy with the teachers' probabilities."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        # Not in the model: under autocast its own loss is in half precision on some devices.
        loss = nn.functional.binary_cross_entropy_with_logits(outputs.logits.float(), labels)
        return (loss, outputs) if return_outputs else loss


class StopAtNan(TrainerCallback):
    """Ends a run whose loss is not finite."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if not np.isfinite(logs.get("loss", 0.0)):
            raise ValueError(f"The loss is no longer finite at step {state.global_step}: {LOWER_THE_RATE}")


def make_trainer(plan: Plan, training: TrainingArguments, callbacks: Sequence[TrainerCallback] = ()) -> Trainer:
    """The trainer of a plan."""
    arguments, extractor = plan.arguments, plan.student.feature_extractor
    shared: dict[str, Any] = {"audio_root": plan.audio_root, "seed": arguments.seed}
    # Held-out chunks have the teachers' inputs of the first epoch, consistent or not.
    held_out = DistillationDataset(plan.store, plan.rows, plan.split.held_out, extractor, **shared)
    dataset = DistillationDataset(
        plan.store,
        plan.rows,
        plan.split.training,
        extractor,
        consistent=arguments.consistent,
        mixup=arguments.mixup,
        **shared,
    )
    lengths = plan.store.chunks["num_samples"].to_numpy()[plan.split.training]
    sampler = EpochSampler(lengths, training.train_batch_size * training.world_size, arguments.seed)
    return DistillationTrainer(
        sampler=sampler,
        model=plan.student.model,
        args=training,
        data_collator=collate,
        train_dataset=dataset,
        eval_dataset=held_out if plan.holds_out else None,
        compute_metrics=compute_metrics,
        callbacks=[StopAtNan(), KeepBest(plan.folder, arguments.average), *callbacks],
    )


def train(trainer: Any, plan: Plan, checkpoint: Path | None) -> tuple[int, ...]:
    """Trains to the end, from a checkpoint if there is one; the steps of the checkpoints to average."""
    if checkpoint is None and not plan.student.has_weights:
        with one_line_errors():
            keys = list(islice(trainer.sampler, STATISTICS_CHUNKS))
            workers = trainer.args.dataloader_num_workers
            options: dict[str, Any] = {"collate_fn": collate, "num_workers": workers, "generator": torch.Generator()}
            batches = DataLoader(trainer.train_dataset, 32, sampler=keys, **options)
            set_input_statistics(trainer.model.encoder.init_bn, batches)
    trainer.train_from(checkpoint)
    return choose_checkpoints(plan.folder, trainer.state.log_history, plan.arguments.average)


def evaluate(trainer: Any, weights: dict[str, torch.Tensor]) -> dict[str, float]:
    """What [`measure_agreement`] finds on the held-out files for some weights."""
    trainer.model.load_state_dict(weights)
    with one_line_errors():
        metrics = trainer.evaluate(metric_key_prefix="averaged")
    return {name: metrics[f"averaged_{name}"] for name in METRIC_NAMES if f"averaged_{name}" in metrics}


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return measure_agreement(torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids))


def measure_agreement(logits: torch.Tensor, probabilities: torch.Tensor) -> dict[str, float]:
    """
    How far a student agrees with its teachers.

    Args:
        logits: Of the student, `(clips, classes)`.
        probabilities: Of the teachers, `(clips, classes)`.

    Returns:
        `bce`, the binary cross-entropy, a mean over clips and classes; `prior_bce`, the lowest that an answer can have
        that is the same for all clips; `top1`, the part of the clips where both have the same class first; and `mAP`,
        the mean average precision over the classes that are a tag of the teachers (a probability of at least 0.5) in
        any clip, without it if there are none.
    """
    if not logits.isfinite().all():
        raise ValueError(f"The student's outputs are no longer finite: {LOWER_THE_RATE}")
    logits, probabilities = logits.double(), probabilities.double()
    loss = nn.functional.binary_cross_entropy_with_logits
    prior = probabilities.mean(dim=0, keepdim=True).logit(eps=1e-12).expand_as(probabilities)
    metrics = {
        "bce": loss(logits, probabilities).item(),
        "prior_bce": loss(prior, probabilities).item(),
        "top1": (logits.argmax(dim=1) == probabilities.argmax(dim=1)).double().mean().item(),
    }
    tags = (probabilities >= TAG_THRESHOLD).numpy()
    present = tags.any(axis=0)
    if present.any():
        metrics["mAP"] = float(average_precision_score(tags[:, present], logits.numpy()[:, present], average="macro"))
    return metrics


# --- After training --------------------------------------------------------------------------------------------------


def write_folder(model: CedForAudioClassification, plan: Plan, target: Path, card: ModelCard, overwrite: bool) -> None:
    """Writes a complete model folder, which appears in one piece; raises a ValueError if that fails."""
    try:
        with new_model_folder(target, overwrite) as folder:
            save_model_folder(model, plan.student.feature_extractor, folder, card)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ValueError(f"{target} could not be written: {reason}. Resume the run to try again.") from error
