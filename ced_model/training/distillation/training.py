# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a student on a store, with transformers' `Trainer` (paper, sections 2 and 3)."""

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

STATISTICS_CHUNKS = 256  # chunks for the input statistics of a student with random weights
TAG_THRESHOLD = 0.5  # probability from which a class is a tag of the teachers
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

    Checkpoints and logs are written to the folder `OUTPUT.training`; the model folder itself is written atomically at
    the end. With `accelerate launch` or `torchrun`, all processes must call this function; only the first one writes.

    Args:
        store: A store, made by `ced distill teach`.
        student: `"tiny"`, `"mini"`, `"small"` or `"base"`, a `config.json`, a model folder or a Hub id, see
            `load_student`.
        output: The model folder to write, which must not exist or be empty.
        arguments: Options of the training.
        audio: The folder with the audio, by default the same as for teaching.
        resume: Whether to continue from the last complete checkpoint, if there is one.
        overwrite: Whether to replace a model folder at `output`, and to discard the checkpoints of an earlier run.
        callbacks: Further callbacks of the `Trainer`; a [`~transformers.ProgressCallback`] replaces the default one.
        say: Called with lines about the data, the student, and changes; by default they are logged.

    Raises:
        `ValueError`: if the store, the student, the audio or the arguments are invalid or do not fit each other, if
            `output` exists, or if the loss is no longer finite.
    """
    target = Path(output).absolute()
    folder = run_folder_of(target)
    plan = make_plan(store, student, folder, arguments or DistillationArguments(), audio)
    config = plan.student.model.config.to_dict()  # before Trainer adds fields
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
    """Raises a ValueError if the audio folder, or a file with chunks in it, does not exist."""
    if not root.is_dir():
        raise ValueError(f"The audio of the store is not at {root}: give its folder as `audio=…`.")
    paths = store.chunks["path"].unique().to_pylist()
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the store's {len(paths)} audio files are not in {root}, such as {missing[0]}: give"
            " their folder as `audio=…`."
        )


def describe_plan(plan: Plan, checkpoint: Path | None) -> list[str]:
    """Lines about the student, the data, the checkpoint and changes."""
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
    """The properties that must not change when a run is resumed, in a form that can be stored as JSON."""
    manifest = plan.store.manifest
    arguments = asdict(plan.arguments)
    further = arguments.pop("training")
    del arguments["workers"]  # does not affect weights
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
    """A `Trainer` with the binary cross-entropy with the teachers' probabilities as loss."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        # Not the loss of the model, which is in half precision under autocast on some devices.
        loss = nn.functional.binary_cross_entropy_with_logits(outputs.logits.float(), labels)
        return (loss, outputs) if return_outputs else loss


class StopAtNan(TrainerCallback):
    """Stops a run if its loss is not finite."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if not np.isfinite(logs.get("loss", 0.0)):
            raise ValueError(f"The loss is no longer finite at step {state.global_step}: {LOWER_THE_RATE}")


def make_trainer(plan: Plan, training: TrainingArguments, callbacks: Sequence[TrainerCallback] = ()) -> Trainer:
    """The trainer of a plan."""
    arguments, extractor = plan.arguments, plan.student.feature_extractor
    shared: dict[str, Any] = {"audio_root": plan.audio_root, "seed": arguments.seed}
    # Held-out chunks always have the teachers' inputs of the first epoch.
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
    """Trains to the end, from a checkpoint if given; returns the steps of the checkpoints to average."""
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
    """The result of [`measure_agreement`] on the held-out files for the given weights."""
    trainer.model.load_state_dict(weights)
    with one_line_errors():
        metrics = trainer.evaluate(metric_key_prefix="averaged")
    return {name: metrics[f"averaged_{name}"] for name in METRIC_NAMES if f"averaged_{name}" in metrics}


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return measure_agreement(torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids))


def measure_agreement(logits: torch.Tensor, probabilities: torch.Tensor) -> dict[str, float]:
    """
    Agreement of a student with its teachers.

    Args:
        logits: Logits of the student, `(clips, classes)`.
        probabilities: Probabilities of the teachers, `(clips, classes)`.

    Returns:
        `bce`: binary cross-entropy, mean over clips and classes. `prior_bce`: the lowest value for an output that is
        the same for all clips. `top1`: share of the clips with the same best-scored class. `mAP`: mean average
        precision over the classes that are a tag of the teachers (a probability of at least 0.5) in any clip, if there
        are such classes.
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
    """Writes a model folder atomically; raises a ValueError if that fails."""
    try:
        with new_model_folder(target, overwrite) as folder:
            save_model_folder(model, plan.student.feature_extractor, folder, card)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ValueError(f"{target} could not be written: {reason}. Resume the run to try again.") from error
