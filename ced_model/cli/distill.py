# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill`: its commands. Each imports what does its work inside the function, as in `app`."""

from typing import Annotated

import typer

from . import options
from .errors import one_line_errors
from .training_options import Settings

app = typer.Typer(
    help="Make a model of your own from other models, without labels.\n\n"
    "First `teach` stores what teachers say of your audio, then `train` trains a student on it.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
@one_line_errors
def teach(
    audio: Annotated[list[str] | None, typer.Argument(metavar="AUDIO", hidden=True)] = None,
    list_file: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="A list of paths, one a line or separated by NUL; - for stdin."),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher", "-t", metavar="TEACHER", help="A teacher; given several times, the mean of them is stored."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", "-e", metavar="N", min=1, help="How often each chunk is heard, each time altered otherwise."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="STORE", help="The folder of the store.")
    ] = None,
    top_k: Annotated[
        int,
        typer.Option(
            "--top-k", "-k", metavar="N", min=1, help="Classes to store; by default the best 20.", show_default=False
        ),
    ] = 20,
    chunk: Annotated[
        float, typer.Option(metavar="SECONDS", help="Length that audio is cut into; by default 10.", show_default=False)
    ] = 10.0,
    max_shift: Annotated[
        float,
        typer.Option(
            metavar="PART",
            help="Circular shift in time at most, as a part of a chunk; by default 0.5.",
            show_default=False,
        ),
    ] = 0.5,
    max_time_mask: Annotated[
        int,
        typer.Option(
            metavar="FRAMES", help="Frames of 10 ms that are masked at most; by default 192.", show_default=False
        ),
    ] = 192,
    max_freq_mask: Annotated[
        int,
        typer.Option(metavar="BINS", help="Mel bins of 64 that are masked at most; by default 24.", show_default=False),
    ] = 24,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Decides all shifts and masks; by default 0.", show_default=False)
    ] = 0,
    device: options.Device = None,
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Chunks that are computed together; by default 16.", show_default=False),
    ] = 16,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Processes that read and prepare audio; by default 4 for a GPU, 0 for a CPU."
        ),
    ] = None,
) -> None:
    """Store what teachers say of audio.

    AUDIO is folders (searched recursively; hidden entries are left out) and files. It is cut into chunks of 10 s; a
    last piece under half a chunk is left out, a shorter file is a chunk as it is.

    A TEACHER is a model folder, the id of a Hub repository (any audio classifier of transformers), or a Python callable
    as module:attribute or path/to/file.py:attribute.

    Interrupted or killed, the same command goes on where it was. On several GPUs or machines (with a shared folder):
    accelerate launch -m ced_model distill teach …

    Example: ced distill teach sounds/ -t mispeech/ced-base -t mispeech/ced-small --epochs 10 -o store
    """
    from .teach import TeachOptions, teach

    teach(
        audio or [],
        list_file,
        TeachOptions(
            teachers=tuple(teacher or ()),
            epochs=epochs,
            output=output,
            top_k=top_k,
            chunk=chunk,
            max_shift=max_shift,
            max_time_mask=max_time_mask,
            max_freq_mask=max_freq_mask,
            seed=seed,
            device=device,
            batch_size=batch_size,
            workers=workers,
        ),
    )


@app.command()
@one_line_errors
def train(
    store: Annotated[str, typer.Argument(metavar="STORE", hidden=True)],
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            "-s",
            metavar="STUDENT",
            help="tiny, mini, small, base, a config.json, a model folder or Hub id.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write the model here, at the end; until then DIR.training."
        ),
    ] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the audio is now; by default where it was taught.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", "-e", metavar="N", min=1, help="By default as many as the store has.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after N optimiser steps, in place of --epochs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Chunks per step and process; by default 32.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="RATE", help="Highest; by default 0.001.")] = None,
    mixup: Annotated[
        float | None, typer.Option(metavar="ALPHA", help="Mix inputs and their targets; by default not.")
    ] = None,
    leftover: Annotated[
        str | None,
        typer.Option(metavar="zero|even", help="Targets of classes that are not stored; by default zero."),
    ] = None,
    no_consistency: Annotated[
        bool, typer.Option("--no-consistency", help="Alter inputs otherwise than the teachers heard them.")
    ] = False,
    held_out: Annotated[
        float | None,
        typer.Option(metavar="PART", help="Part of the chunks, in whole files, to choose by; by default 0.05."),
    ] = None,
    average: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Best checkpoints to average; by default 4.")
    ] = None,
    save_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Evaluate and save every N steps; by default each epoch.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Processes that prepare inputs; by default half of the CPUs."),
    ] = None,
    threads: options.Threads = None,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Of all that is random; by default 0.")] = None,
    report_to: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where figures go besides, such as tensorboard.")
    ] = None,
    settings: Settings = None,
    allow_unfinished: Annotated[
        bool, typer.Option("--allow-unfinished", help="Train on a store that is not complete yet.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model in DIR, and a run that is not resumed.")
    ] = False,
) -> None:
    """Train a student on what teachers said.

    STORE is what `ced distill teach` made. The student hears exactly what the teachers heard, and learns what they said
    of it. A size begins with random weights, a model with its own; a head that does not fit the store is replaced.

    On several GPUs or machines: accelerate launch -m ced_model distill train …

    Example: ced distill train store --student tiny --output my-tagger
    """
    from .train import TrainOptions, train_student

    train_student(
        store,
        TrainOptions(
            student=student,
            output=output,
            audio=audio,
            epochs=epochs,
            max_steps=max_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            mixup=mixup,
            leftover=leftover,
            no_consistency=no_consistency,
            held_out=held_out,
            average=average,
            save_steps=save_steps,
            workers=workers,
            threads=threads,
            seed=seed,
            report_to=report_to,
            settings=tuple(settings or ()),
            allow_unfinished=allow_unfinished,
            resume=resume,
            overwrite=overwrite,
        ),
    )
