# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands. Each imports what does its work inside the function, so that help and wrong usage answer at once."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .errors import one_line_errors

app = typer.Typer(
    help="Tags sounds with CED models.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and one-line errors, in half the time
)


@app.callback()
def ced() -> None:
    pass


@app.command()
@one_line_errors
def plot(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An audio file.")],
    model: options.Model = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The PNG; by default FILE with .png.")
    ] = None,
    window: options.Window = None,
    hop: options.Hop = None,
    top_k: options.TopK = None,
) -> None:
    """Draw the log-mel spectrogram and the tags over time of an audio file as a PNG."""
    from .plot import plot_file

    plot_file(file, model=model, output=output, window_s=window, hop_s=hop, top_k=top_k)


@app.command()
@one_line_errors
def listen(
    model: options.Model = None,
    window: options.Window = None,
    hop: options.Hop = None,
    top_k: options.TopK = None,
    threshold: options.Threshold = None,
    labels: options.Labels = None,
    input_device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Index or name of the microphone; see --list-devices.")
    ] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="Show the microphones and exit.")] = False,
) -> None:
    """Tag what a microphone hears, as it comes in."""
    from .listen import listen

    listen(
        model=model,
        window_s=window,
        hop_s=hop,
        top_k=top_k,
        threshold=threshold,
        labels=labels,
        input_device=input_device,
        list_devices=list_devices,
    )
