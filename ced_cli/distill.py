# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill`: its commands. Each imports what does its work inside the function, as in `app`."""

from typing import Annotated

import typer

from . import options
from .errors import one_line_errors

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
        int, typer.Option("--top-k", "-k", metavar="N", min=1, help="Classes to store; by default the best 20.")
    ] = 20,
    chunk: Annotated[
        float, typer.Option(metavar="SECONDS", help="Length that audio is cut into; by default 10.", show_default=False)
    ] = 10.0,
    max_shift: Annotated[
        float,
        typer.Option(metavar="PART", help="Circular shift in time at most, as a part of a chunk; by default 0.5."),
    ] = 0.5,
    max_time_mask: Annotated[
        int, typer.Option(metavar="FRAMES", help="Frames of 10 ms that are masked at most; by default 192.")
    ] = 192,
    max_freq_mask: Annotated[
        int, typer.Option(metavar="BINS", help="Mel bins of 64 that are masked at most; by default 24.")
    ] = 24,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides all shifts and masks; by default 0.")] = 0,
    device: options.Device = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Chunks that are computed together; by default 16.")
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
    accelerate launch -m ced_cli distill teach …

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
