# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a model on labelled clips and writes a model folder."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback

from ...audio import describe
from ...evaluation import Evaluation, evaluate
from ...event_evaluation import EventEvaluation, evaluate_events
from ...labelled import MULTI_LABEL, SINGLE_LABEL, Skipped
from ...messages import OptionError
from ...pretrained import check_output, load_classifier, new_model_folder, save_model_folder
from ...strong_labels import StrongClips
from ...tagger import AudioTagger
from ..run_folder import FREE_ARGUMENTS, last_checkpoint, open_run, run_folder_of
from .card import best_epoch, make_card
from .clips import DataSource, FinetuningClips, digest, read_clips, write_table
from .events import frame_model
from .model import (
    Head,
    all_labels,
    choose_trained,
    count_trained,
    describe_trained,
    head_of,
    keep_other_classes,
    set_classes,
)
from .options import ADAPTER_FOLDER, FinetuningOptions
from .trainer import FinetuningTrainer, make_arguments, make_trainer

logger = logging.getLogger(__name__)

HELD_OUT_FILE, HELD_OUT_EVENTS, VALIDATION_EVENTS = "held_out.jsonl", "held_out.tsv", "validation.tsv"


@dataclass(frozen=True)
class Finetuned:
    """
    The result of [`finetune`].

    Attributes:
        folder: Folder of the model.
        checkpoints: Folder of the run: checkpoints, logs for TensorBoard, and the list of the validation clips.
        labels: The classes.
        evaluation: Evaluation of this model on the complete validation clips, or of their events with a threshold of
            0.5; None without validation clips, and in all but the main process of a distributed run.
        num_training_clips, num_validation_clips: Number of clips that were used.
        held_out: A table of the validation clips, if they were taken from the training data.
        skipped: Clips that were left out, with the reason.
        epochs: Number of epochs.
        best_epoch: The epoch of this model.
        num_trained: Number of trained parameters.
    """

    folder: Path
    checkpoints: Path
    labels: list[str]
    evaluation: Evaluation | EventEvaluation | None
    num_training_clips: int
    num_validation_clips: int
    held_out: Path | None
    skipped: list[Skipped]
    epochs: float
    best_epoch: float
    num_trained: int


def finetune(
    data: DataSource,
    output_dir: str | os.PathLike,
    *,
    model: str | os.PathLike,
    validation: DataSource | None = None,
    options: FinetuningOptions | None = None,
    reading: Mapping[str, Any] | None = None,
    training_arguments: Mapping[str, Any] | None = None,
    events: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], object] = logger.info,
) -> Finetuned:
    """
    Fine-tunes a CED model on labelled clips and writes it as a model folder.

    The head is replaced by one for the classes of the clips; classes that the model already has start from its weights.
    The model of the best epoch is kept, by mean average precision on the validation clips for multi-label data, else by
    accuracy; ties are resolved by the Brier score. `output_dir` is written atomically at the end. Checkpoints are in
    the folder `OUTPUT_DIR.training`, from which an interrupted run can be resumed.

    Args:
        data: Clips, or a folder or table for [`read_labelled`]. If it has splits, those for training and validation are
            used (the latter unless `validation` is given).
        output_dir: The folder to write.
        model: The folder or Hub id of a CED model, or `"ced-nano"`, the bundled one.
        validation: Clips, a folder or a table for validation. Without it and without such a split, a share of the clips
            is held out.
        options: Options of fine-tuning.
        reading: Options of [`read_labelled`] for `data` and `validation`, such as `audio_root`; `split` is only for
            `data`.
        training_arguments: Fields of [`~transformers.TrainingArguments`], which override those from `options`.
        events: Whether the data have strong labels, see [`read_strong_labels`]. The model then becomes a
            `CedForAudioFrameClassification`, which is trained on each step of 0.16 s.
        resume: Continue from the last checkpoint, if there is one.
        overwrite: Replace an existing model in `output_dir`, and discard checkpoints unless they are resumed.
        callbacks: Further callbacks of the `Trainer`; a [`~transformers.ProgressCallback`] replaces the default one.
        say: Called with lines about clips that are left out, assumptions, and trained parameters.

    Raises:
        ValueError: if the clips, the model, the options or the folders are invalid.
        OSError: if there is no such model, or a file cannot be written.
        ImportError: if an extra is not installed.
    """
    options = options or FinetuningOptions()
    target = Path(output_dir).absolute()
    checkpoints = run_folder_of(target)
    check_output(target, overwrite, (ADAPTER_FOLDER,))
    network: Any
    network, feature_extractor, has_head = load_classifier(model)
    if events:
        network = frame_model(network)
    tagger = AudioTagger(network, feature_extractor=feature_extractor)
    crop = _crop_samples(tagger, options.crop_s)
    if events:
        step = network.config.patch_size * tagger.feature_extractor.hop_size
        crop = crop // step * step
    before = _head_to_keep(network, has_head, str(model)) if options.keep_classes else None
    how = dict(reading or {}) | ({} if before is None else {"problem_type": MULTI_LABEL})
    clips = read_clips(data, validation, tagger, how, options, events)
    problem_type = clips.training.problem_type
    kept_rows = set_classes(network, clips.training.labels, problem_type, options.seed, has_head)
    trained = choose_trained(network, options)
    overrides = training_arguments or {}
    arguments = make_arguments(options, checkpoints, clips.validation is not None, overrides)
    held_out = checkpoints / (HELD_OUT_EVENTS if events else HELD_OUT_FILE) if clips.is_held_out else None

    checkpoint: Path | None = None
    evaluation: Evaluation | EventEvaluation | None = None
    with ExitStack() as stack:
        if arguments.should_save:
            run = _describe_run(str(model), clips, options, overrides)
            checkpoint = stack.enter_context(open_run(checkpoints, run, resume=resume, overwrite=overwrite))
            if held_out is not None and clips.validation is not None:
                write_table(held_out, clips.validation)
            for line in _opening_lines(clips, kept_rows, trained, options, checkpoint):
                say(line)
        arguments.distributed_state.wait_for_everyone()
        if not arguments.should_save:
            checkpoint = last_checkpoint(checkpoints)
        trainer = make_trainer(trained, tagger, clips, crop, options, arguments, callbacks)
        trainer.train_from(checkpoint)
        if arguments.should_save:
            evaluation = _write_model(trainer, tagger, clips, options, str(model), target, overwrite, before)
        arguments.distributed_state.wait_for_everyone()
    return Finetuned(
        folder=target,
        checkpoints=checkpoints,
        labels=clips.training.labels if before is None else all_labels(before, clips.training.labels),
        evaluation=evaluation,
        num_training_clips=len(clips.training),
        num_validation_clips=0 if clips.validation is None else len(clips.validation),
        held_out=held_out,
        skipped=clips.skipped,
        epochs=trainer.state.epoch or 0.0,
        best_epoch=best_epoch(trainer),
        num_trained=count_trained(trained),
    )


def _head_to_keep(network: Any, has_head: bool, model: str) -> Head:
    """The head with the classes to keep; raises an OptionError if that is not possible."""
    if not has_head or network.config.problem_type != MULTI_LABEL:
        kind = network.config.problem_type if has_head else "an encoder without classes"
        raise OptionError("keep_classes", True, f"a multi-label model; {model} is {kind}")
    return head_of(network)


def _crop_samples(tagger: AudioTagger, crop_s: float | None) -> int:
    if crop_s is None:
        return round(tagger.max_window_s * tagger.sampling_rate)
    if not tagger.min_window_s <= crop_s <= tagger.max_window_s:
        bounds = f"{tagger.min_window_s:.3g} to {tagger.max_window_s:.4g} seconds"
        raise OptionError("crop_s", crop_s, f"{bounds}, the range of this model")
    return round(crop_s * tagger.sampling_rate)


def _opening_lines(
    clips: FinetuningClips, kept_rows: int, trained: nn.Module, options: FinetuningOptions, checkpoint: Path | None
) -> Iterator[str]:
    """Lines about the clips and the model."""
    for path, reason in clips.skipped:
        yield f"left out: {describe(path)}: {reason}"
    yield from (f"note: {note}" for note in clips.notes)
    labels = clips.training.labels
    for subset, verb in ((clips.training, "trained"), (clips.validation, "validated")):
        absent: Any = [] if subset is None else np.flatnonzero((subset.targets < 0.5).all(axis=0))
        if len(absent):
            names = ", ".join(repr(labels[index]) for index in absent[:5]) + (", …" if len(absent) > 5 else "")
            yield f"note: no clip of {names}: {'it is' if len(absent) == 1 else 'they are'} not {verb}"
    if isinstance(clips.training, StrongClips):
        described = (
            f"{sum(map(len, clips.training.events))} events of {len(labels)} classes in {len(clips.training)} clips"
        )
    else:
        kind = "one" if clips.training.problem_type == SINGLE_LABEL else "any number of them"
        described = f"{len(clips.training)} clips of {len(labels)} classes, {kind} per clip"
    yield described + (
        "" if clips.validation is None else f"; {len(clips.validation)} {'held out ' * clips.is_held_out}for validation"
    )
    head = (
        "a new head"
        if not kept_rows
        else f"a head in which {kept_rows} of {len(labels)} classes start from the model's"
    )
    if kept_rows == len(labels):
        head = "the model's own head for them"
    yield f"training {describe_trained(options)}, {count_trained(trained):,} parameters, with {head}"
    if checkpoint is not None:
        yield f"continuing from {checkpoint.name}"


def _describe_run(
    model: str, clips: FinetuningClips, options: FinetuningOptions, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The properties that must not change when a run is resumed."""
    return {
        "model": model,
        "labels": clips.training.labels,
        "problem_type": clips.training.problem_type,
        **{name: value for name, value in asdict(options).items() if name != "device"},
        **{name: value for name, value in overrides.items() if not name.startswith(FREE_ARGUMENTS)},
        "training clips": digest(clips.training),
        "validation clips": digest(clips.validation),
    }


def _write_model(
    trainer: FinetuningTrainer,
    tagger: AudioTagger,
    clips: FinetuningClips,
    options: FinetuningOptions,
    base_model: str,
    target: Path,
    overwrite: bool,
    before: Head | None,
) -> Evaluation | EventEvaluation | None:
    """Writes the folder atomically, and returns the evaluation of its model on the validation clips."""
    network: Any = trainer.accelerator.unwrap_model(trainer.model)
    with new_model_folder(target, overwrite, (ADAPTER_FOLDER,)) as folder:
        if options.lora is not None:
            network.save_pretrained(folder / ADAPTER_FOLDER)
            network = network.merge_and_unload()
        evaluation: Evaluation | EventEvaluation | None = None
        if clips.validation is not None:
            trained = AudioTagger(network, feature_extractor=tagger.feature_extractor)
            if isinstance(clips.validation, StrongClips):
                labels = Path(str(trainer.args.output_dir)) / VALIDATION_EVENTS
                write_table(labels, clips.validation)
                evaluation = evaluate_events(trained, labels)
            else:
                evaluation = evaluate(trained, clips.validation)
        if before is not None:
            keep_other_classes(network, before)
        card = make_card(network, trainer, clips, options, base_model, target.name, evaluation)
        save_model_folder(network, tagger.feature_extractor, folder, card)
    return evaluation
