# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced plot`: the log-mel spectrogram and the tags over time of a recording, as a PNG."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..output import check_new_file, new_file
from ..packages import require
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .finding import choosing
from .model import load_tagger
from .terminal import put

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..classes import ClassChoice
    from ..tagger import AudioTagger

INSTALL_PLOT = 'pip install "ced_model[plot]"'
TOP_K = 10


@one_line_errors
def plot(
    file: Annotated[Path, typer.Argument(metavar="FILE", hidden=True)],
    model: options.Model = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The PNG; by default FILE with .png.")
    ] = None,
    window_s: options.Window = None,
    hop_s: options.Hop = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture that is there.")] = False,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", "-k", metavar="N", min=1, help="Classes to draw; by default 10, or all of --labels."),
    ] = None,
    labels: options.Labels = None,
    exclude: options.Exclude = None,
    label_map: options.LabelMap = None,
    channel: options.Channel = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
) -> None:
    """Draw an audio file and its tags over time.

    The PNG shows the log-mel spectrogram of FILE, and the scores of the classes with the highest peaks below it.
    """
    path = output or Path(f"{file}.png")
    check_new_file("output", path, ".png", overwrite)
    require(("matplotlib",), "drawing", INSTALL_PLOT)
    from ..classes import choose_classes

    if not file.exists():
        raise CliError(f"{str(file)!r}: there is no such file", FAILED)
    tagger = load_tagger(model, engine=engine, compute_type=compute_type)
    classes = choosing(labels, exclude, label_map)
    choices = choose_classes(tagger.labels, classes.pop("labels", None), **classes)
    windows = options.given(window_s=window_s, hop_s=hop_s)
    number = top_k or (len(choices) if labels else TOP_K)
    _save(_draw(tagger, file, windows, choices, number, options.parse_channel(channel)), path, overwrite)
    put(str(path))


def _draw(
    tagger: "AudioTagger",
    file: Path,
    windows: dict[str, Any],
    choices: list["ClassChoice"],
    top_k: int,
    channel: str | int,
) -> "Figure":
    from ..audio import describe, read_blocks
    from ..drawing import BLOCK_FRAMES, MAX_COLUMNS, make_figure, mel_picture

    front_end = tagger.front_end
    timeline = tagger.timeline(file, channel=channel, **windows).take(choices)
    block_s = BLOCK_FRAMES * front_end.hop_size / front_end.sampling_rate
    blocks = read_blocks(file, sampling_rate=front_end.sampling_rate, block_s=block_s, channel=channel)
    decibels, column_s = mel_picture(blocks, front_end, MAX_COLUMNS)
    return make_figure(decibels, column_s, timeline, front_end, describe(file.name), top_k)


def _save(figure: Any, path: Path, overwrite: bool) -> None:
    with warnings.catch_warnings(), new_file(path, overwrite) as file:
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in scripts that the font lacks
        figure.savefig(file, format="png")
