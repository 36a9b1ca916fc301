# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced finetune`: labelled clips → a model folder."""

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..messages import count
from . import options, training_options
from .endings import one_line_errors
from .errors import CliError
from .options import INPUT, TRAINING, option
from .terminal import put, quoted, say
from .training_options import parse_settings, split_settings
from .training_output import is_main_process, make_progress, training_errors, use_threads

if TYPE_CHECKING:
    from ..training.finetuning import Finetuned


@one_line_errors
def finetune(
    data: Annotated[str | None, typer.Argument(metavar="DATA", hidden=True)] = None,
    dataset: options.Dataset = None,
    config: options.Config = None,
    audio_column: options.AudioColumn = None,
    split: Annotated[
        str | None, option(INPUT, metavar="NAME", help="Split to train on; by default train, or all clips.")
    ] = None,
    validation: Annotated[
        str | None, option(INPUT, metavar="DATA", help="Clips for validation; by default the split validation.")
    ] = None,
    validation_share: Annotated[
        float | None,
        option(
            INPUT, metavar="SHARE", help="Share of clips held out if the data have no validation split; by default 0.1."
        ),
    ] = None,
    audio_root: options.AudioRoot = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    separator: options.Separator = ";",
    multi_label: Annotated[
        bool, option(INPUT, "--multi-label", help="Train independent classes even if each clip has one class.")
    ] = False,
    model: options.Model = None,
    device: options.Device = None,
    threads: options.Threads = None,
    train: Annotated[
        str | None,
        option(
            TRAINING,
            metavar="PART",
            help="Layers to train: head, last:K (head and last K blocks) or all; by default all.",
        ),
    ] = None,
    lora: Annotated[
        int | None,
        option(TRAINING, metavar="RANK", min=1, help="Train LoRA adapters of this rank instead of whole blocks."),
    ] = None,
    events: Annotated[
        bool, option(TRAINING, "--events", help="Train on strong labels (filename, onset, offset, event_label).")
    ] = False,
    keep_classes: Annotated[
        bool, option(TRAINING, "--keep-classes", help="Keep the model's other classes; trains only the head.")
    ] = False,
    epochs: Annotated[float | None, option(TRAINING, metavar="N", help="Maximum epochs; by default 20.")] = None,
    patience: Annotated[
        int | None,
        option(
            TRAINING, metavar="N", min=0, help="Stop after N epochs without improvement; by default 5, 0 to never stop."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, option(TRAINING, metavar="N", min=1, help="Clips per step and device; by default 16.")
    ] = None,
    learning_rate: training_options.LearningRate = None,
    encoder_learning_rate: Annotated[
        float | None,
        option(
            TRAINING,
            metavar="RATE",
            help="Learning rate of the encoder; by default a tenth of the other, with --lora the same.",
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        option(TRAINING, metavar="balanced|none", help="balanced weights rare classes more; by default none."),
    ] = None,
    crop_s: Annotated[
        float | None,
        option(
            TRAINING,
            "--crop",
            metavar="SECONDS",
            help="Train on random crops of this length of longer clips; by default 10.1.",
        ),
    ] = None,
    mixup: training_options.Mixup = None,
    masks: Annotated[
        bool, option(TRAINING, "--masks", help="Mask random parts of each spectrogram in time and frequency.")
    ] = False,
    seed: training_options.Seed = None,
    settings: training_options.Settings = None,
    output: training_options.Output = None,
    resume: training_options.Resume = False,
    overwrite: training_options.Overwrite = False,
) -> None:
    """Fine-tune a model on your own labelled clips.

    DATA is a folder with one folder of clips per class, a folder with a metadata.csv, or a table, as for
    `ced evaluate`. The new model has these classes. For classes that the old model has too, training starts from their
    weights. With --dataset instead of DATA, the audio of a data set is first written to files.

    With --events, DATA is a table of strong labels, as for `ced evaluate --events`, and the model is trained to detect
    when classes occur, in steps of 0.16 s.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    from .model import choose_model, quieten

    options.choose_data(
        data, dataset, config=config, audio_column=audio_column, audio_root=audio_root, path_column=path_column
    )
    refused = {"dataset": dataset, "split": split, "path_column": path_column, "label_column": label_column}
    options.refuse("has no effect with --events" if events else "", **refused, multi_label=multi_label or None)
    model = choose_model(model)
    if output is None:
        raise CliError("missing --output DIR: where to write the model")
    if validation is not None and validation_share is not None:
        raise CliError("give either --validation or --validation-share, not both")
    for flag, path in (("", data), ("--validation ", validation)):
        if path is not None and "://" not in path and not os.path.exists(path):
            raise CliError(f"{flag}{path!r}: there is no such file or folder")
    split_settings(settings)
    from ..model_files import check_output
    from ..training.finetuning import FinetuningOptions
    from ..training.finetuning.options import ADAPTER_FOLDER

    check_output(Path(output).absolute(), overwrite, (ADAPTER_FOLDER,))  # before audio is written
    if dataset is not None:
        data = _data_of(dataset, config, split, audio_column, label_column)
    fields = {field.name for field in dataclasses.fields(FinetuningOptions)}
    training = ({"train": "head"} if keep_classes else {}) | {name: given[name] for name in fields & given.keys()}
    finetuning_options = FinetuningOptions(**training)
    reading = {
        "split": split,
        "audio_root": audio_root,
        "path_column": path_column,
        "label_column": label_column,
        "separator": separator,
        "problem_type": "multi_label_classification" if multi_label else None,
    }
    with training_errors(output, "continue from the last checkpoint with --resume"):
        from ..training.finetuning import finetune

        quieten()
        use_threads(threads)
        # Checkpoints written within one second are ordered by number; the warning about their times is of no use.
        trainer_utils = logging.getLogger("transformers.trainer_utils")
        trainer_utils.addFilter(lambda record: "mtime may not be reliable" not in record.getMessage())
        done = finetune(
            str(data),
            output,
            model=model,
            validation=validation,
            options=finetuning_options,
            reading={name: value for name, value in reading.items() if value is not None},
            training_arguments=parse_settings(settings),
            events=events,
            resume=resume,
            overwrite=overwrite,
            callbacks=[make_progress(_epoch_line)],
            say=say,
        )
    if is_main_process():
        put(*_report(done, output, events))


def _data_of(
    dataset: str, config: str | None, split: str | None, audio_column: str | None, label_column: str | None
) -> str:
    """The folder of a data set, or a table of its clips after their audio was written to files."""
    from .model import quieten

    quieten()
    from ..dataset_clips import training_splits, unpack_table
    from ..dataset_rows import find_dataset, local_files
    from ..training.finetuning.clips import TRAIN_SPLITS, VALIDATION_SPLITS

    files = find_dataset(dataset, config, audio_column)
    splits = training_splits(files, split, TRAIN_SPLITS, VALIDATION_SPLITS)
    if not files.is_table:
        return local_files(files, [name for some in splits for name in files.names(some)]).folder
    return unpack_table(files, splits, audio_column=audio_column, label_column=label_column, say=say)


def _epoch_line(state: Any, loss: float | None, metrics: dict[str, float], rate: float) -> str:
    parts = [f"epoch {state.epoch:.4g} of {state.num_train_epochs:g}"]
    figures = {"loss": loss, "validation loss": metrics.get("eval_loss")}
    figures |= {name: metrics.get(f"eval_{name}") for name in ("top_1", "mAP")}
    return "  ".join(parts + [f"{name} {value:.3f}" for name, value in figures.items() if value is not None])


def _report(done: "Finetuned", output: str, events: bool) -> Iterator[str]:
    """Lines for stdout: validation figures, and commands that use the model."""
    if done.evaluation is not None:
        from .evaluate import table_lines
        from .evaluate_events import event_lines

        lines: Any = event_lines if events else table_lines
        yield from lines(done.evaluation)
        yield ""
    model = quoted(output)
    stopped = f", stopped after {done.epochs:.4g}" if done.epochs > done.best_epoch else ""
    yield f"wrote {model}: {count(len(done.labels), 'class', 'es')}, weights of epoch {done.best_epoch:.4g}{stopped}"
    if done.held_out is not None:
        clips = os.path.join(os.path.dirname(os.path.normpath(output)), *done.held_out.parts[-2:])
        yield f"evaluate it again: ced evaluate {quoted(clips)} --model {model}{' --events' * events}"
    yield f"tag with it:       ced tag FILES --model {model}{' --events' * events}"
