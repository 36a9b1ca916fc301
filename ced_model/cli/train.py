# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill train`: a store of teacher outputs → a trained student (model folder)."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, training_options
from .endings import one_line_errors
from .errors import CliError
from .options import COMPUTING, INPUT, TRAINING, option
from .terminal import put, quoted, say
from .training_options import parse_settings, split_settings
from .training_output import is_main_process, leave_group, make_progress, training_errors, use_threads

if TYPE_CHECKING:
    from ..training.distillation.training import Distillation

# Fields of `DistillationArguments`
TRAINING_OPTIONS = (
    *("epochs", "max_steps", "batch_size", "learning_rate", "mixup"),
    *("held_out", "average", "save_steps", "workers", "seed"),
)
SHARES = {"top1": "top-1", "mAP": "mAP"}


@one_line_errors
def train(
    store: Annotated[str, typer.Argument(metavar="STORE", hidden=True)],
    student: Annotated[
        str | None,
        option(
            COMPUTING,
            "--student",
            "-s",
            metavar="STUDENT",
            help="tiny, mini, small, base or a config.json for random weights; or a model folder or Hub id. Required.",
        ),
    ] = None,
    threads: options.Threads = None,
    audio: Annotated[
        str | None, option(INPUT, metavar="DIR", help="Folder of the audio, if it has moved since `teach`.")
    ] = None,
    held_out: Annotated[
        float | None,
        option(
            INPUT, metavar="SHARE", help="Share of the chunks to hold out for validation, by files; by default 0.05."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        option(INPUT, metavar="N", min=0, help="Processes that prepare inputs; by default half of the CPUs."),
    ] = None,
    epochs: Annotated[
        int | None,
        option(TRAINING, "--epochs", "-e", metavar="N", min=1, help="Number of epochs; by default all in the store."),
    ] = None,
    max_steps: Annotated[
        int | None, option(TRAINING, metavar="N", min=1, help="Stop after N optimiser steps, instead of --epochs.")
    ] = None,
    batch_size: Annotated[
        int | None, option(TRAINING, metavar="N", min=1, help="Chunks per step and process; by default 32.")
    ] = None,
    learning_rate: training_options.LearningRate = None,
    mixup: training_options.Mixup = None,
    no_consistency: Annotated[
        bool,
        option(
            TRAINING, "--no-consistency", help="Augment inputs independently of the teachers' inputs, for comparison."
        ),
    ] = False,
    average: Annotated[
        int | None,
        option(TRAINING, metavar="K", min=1, help="Average the weights of the K best checkpoints; by default 4."),
    ] = None,
    save_steps: Annotated[
        int | None,
        option(TRAINING, metavar="N", min=1, help="Evaluate and save every N steps; by default each epoch."),
    ] = None,
    seed: training_options.Seed = None,
    settings: training_options.Settings = None,
    output: training_options.Output = None,
    resume: training_options.Resume = False,
    overwrite: training_options.Overwrite = False,
) -> None:
    """Train a student on stored teacher outputs.

    STORE is a folder made by `ced distill teach`. The student is trained on the same augmented inputs as the teachers
    had, to produce the same outputs. A head with other classes than the store is replaced.

    On several GPUs or machines: accelerate launch -m ced_model distill train …
    """
    options_given = locals()
    if student is None:
        raise CliError("missing --student: tiny, mini, small, base, a config.json, a model folder or Hub id")
    if output is None:
        raise CliError("missing --output DIR: where to write the model")
    if not os.path.isdir(store):
        raise CliError(f"{store}: there is no such folder; make one with ced distill teach")
    if resume and overwrite:
        raise CliError("--resume keeps the checkpoints, --overwrite discards them: choose one")
    split_settings(settings)
    from ..training.distillation.options import DistillationArguments
    from .model import quieten

    given = {name: options_given[name] for name in TRAINING_OPTIONS if options_given[name] is not None}
    arguments = DistillationArguments(consistent=not no_consistency, training=parse_settings(settings), **given)
    with training_errors(output, f"continue from the last checkpoint in {output} with --resume"):
        from ..training.distillation.training import distill

        quieten()
        use_threads(threads)
        done = distill(
            store,
            student,
            output,
            arguments,
            audio=audio,
            resume=resume,
            overwrite=overwrite,
            callbacks=[make_progress(_line)],
            say=say,
        )
    if is_main_process():
        put(*_report(done, output))
    leave_group()


def _line(state: Any, loss: float | None, metrics: dict[str, float], rate: float) -> str | None:
    if metrics and "eval_bce" not in metrics:  # an evaluation of the averaged weights
        return None
    figures = {"loss": loss, "held out": metrics.get("eval_bce")}
    shares = {name: metrics.get(f"eval_{key}") for key, name in SHARES.items()}
    parts = [
        f"epoch {state.epoch:.3g} of {state.num_train_epochs:g}",
        *(f"{name} {value:.4f}" for name, value in figures.items() if value is not None),
        *(f"{name} {value:.2f}" for name, value in shares.items() if value is not None),
        f"{rate:.3g} chunks/s",
    ]
    return "  ".join(parts)


def _report(done: "Distillation", output: str) -> Iterator[str]:
    """Lines for stdout at the end."""
    steps = ", ".join(map(str, sorted(done.averaged)))
    weights = f"the mean of steps {steps}" if len(done.averaged) > 1 else f"step {steps}"
    yield f"wrote {output}: {done.parameters:,} parameters, weights of {weights}"
    if done.metrics:
        bce, prior = done.metrics["bce"], done.metrics["prior_bce"]
        yield f"on held-out files: loss {bce:.4f}; constant outputs (the mean of the targets) {prior:.4f}"
        yield "agreement with the teachers: " + ", ".join(
            f"{name} {done.metrics[key]:.3f}" for key, name in SHARES.items() if key in done.metrics
        )
    yield f"tag with it: ced tag FILES --model {quoted(output)}"
