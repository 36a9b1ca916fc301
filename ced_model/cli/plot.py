# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced plot`: a recording → a PNG of its log-mel spectrogram and its scores over time."""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ..messages import OptionError
from ..output import check_new_file, new_file
from ..packages import require
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .finding import choosing
from .model import load_tagger
from .options import CLASSES, INPUT, OUTPUT, option
from .progress import RunProgress
from .terminal import put

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ..classes import ClassChoice
    from ..results import Timeline
    from ..tagger import AudioTagger

TOP_K = 10
END_S = 1e9  # after the end of any recording


@one_line_errors
def plot(
    file: Annotated[Path, typer.Argument(metavar="FILE", hidden=True)],
    start_s: Annotated[
        float | None, option(INPUT, "--start", metavar="SECONDS", help="Start of the part to draw.")
    ] = None,
    end_s: Annotated[float | None, option(INPUT, "--end", metavar="SECONDS", help="End of the part to draw.")] = None,
    channel: options.Channel = None,
    model: options.Model = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
    device: options.Device = None,
    num_threads: options.Threads = None,
    top_k: Annotated[
        int | None,
        option(
            CLASSES, "--top-k", "-k", metavar="N", min=1, help="Maximum classes; by default 10, or all of --labels."
        ),
    ] = None,
    threshold: Annotated[
        float | None, option(CLASSES, metavar="SCORE", help="Leave out classes that do not reach this score.")
    ] = None,
    labels: options.Labels = None,
    exclude: options.Exclude = None,
    label_map: options.LabelMap = None,
    window_s: options.Window = None,
    hop_s: options.Hop = None,
    output: Annotated[
        Path | None,
        option(
            OUTPUT, "--output", "-o", metavar="FILE", help="The PNG file; by default FILE.png in the current folder."
        ),
    ] = None,
    overwrite: Annotated[bool, option(OUTPUT, "--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Draw the spectrogram and tags of a recording as a PNG.

    The PNG shows the log-mel spectrogram of FILE and, below it, the scores over time of the highest-scoring classes.
    """
    path = output or Path(f"{file.name}.png")
    check_new_file("output", path, ".png", overwrite)
    require(("matplotlib",), "drawing")
    from ..classes import choose_classes

    if not file.exists():
        raise CliError(f"{str(file)!r}: there is no such file", FAILED)
    part = (0.0 if start_s is None else start_s, math.inf if end_s is None else end_s)
    if not 0 <= part[0] < part[1]:
        raise CliError(f"--start {part[0]:g} --end {part[1]:g}: expected a start from 0, and an end after it")
    tagger = load_tagger(model, device=device, num_threads=num_threads, engine=engine, compute_type=compute_type)
    classes = choosing(labels, exclude, label_map)
    choices = choose_classes(tagger.labels, classes.pop("labels", None), **classes)
    windows = options.given(window_s=window_s, hop_s=hop_s)
    shown = {"threshold": threshold, "top_k": top_k or (None if labels else TOP_K)}
    figure = _draw(tagger, file, part, windows, options.parse_channel(channel), choices, shown)
    with new_file(path, overwrite) as picture:
        save_figure(figure, picture)
    put(str(path))


def _draw(
    tagger: "AudioTagger",
    file: Path,
    part: tuple[float, float],
    windows: dict[str, Any],
    channel: str | int,
    choices: list["ClassChoice"],
    shown: dict[str, Any],
) -> "Figure":
    from ..audio import describe, duration_s, read_blocks
    from ..drawing import BLOCK_FRAMES, MAX_COLUMNS, make_figure, mel_picture

    front_end = tagger.front_end
    block_s = BLOCK_FRAMES * front_end.hop_size / front_end.sampling_rate
    blocks: Iterable[np.ndarray] = read_blocks(
        file, sampling_rate=front_end.sampling_rate, block_s=block_s, channel=channel
    )
    source: Any = file
    if part != (0.0, math.inf):
        source = _cut(blocks, *(round(min(bound, END_S) * front_end.sampling_rate) for bound in part))
        if not len(source):
            raise CliError(f"--start {part[0]:g}: {file} is shorter than that", FAILED)
        blocks = [source]
    length_s = duration_s(source if source is file else {"array": source, "sampling_rate": front_end.sampling_rate})
    with RunProgress(1, length_s) as progress:
        how: dict[str, Any] = windows | ({"channel": channel} if source is file else {})
        (result,) = tagger.timelines([source], on_audio=progress.add_audio, **how)
    if result.error is not None or result.timeline is None:
        raise result.error or CliError(f"{file}: no timeline", FAILED)
    timeline = result.timeline.take(choices)
    classes = _choose_classes(timeline, **shown)
    decibels, column_s = mel_picture(blocks, front_end, MAX_COLUMNS)
    title = describe(file.name)
    return make_figure(decibels, column_s, timeline, front_end, title, TOP_K, classes=classes, start_s=part[0])


def _cut(blocks: "Iterable[np.ndarray]", first: int, last: int) -> "np.ndarray":
    """The samples from `first` to `last` of consecutive blocks. Blocks after `last` are not read."""
    import numpy as np

    kept, position = [np.zeros(0, np.float32)], 0
    for block in blocks:
        kept.append(block[max(0, first - position) : max(0, last - position)])
        position += len(block)
        if position >= last:
            break
    return np.concatenate(kept)


def _choose_classes(timeline: "Timeline", threshold: float | None, top_k: int | None) -> "np.ndarray":
    """Indices of the classes to draw, those with the highest peaks first."""
    from ..drawing import highest_classes

    order = highest_classes(timeline, len(timeline.labels))
    peaks = timeline.scores.max(axis=0)
    if threshold is not None and not peaks[order[0]] >= threshold:
        best = f"{peaks[order[0]]:.3f}, the highest score ({timeline.labels[order[0]]!r})"
        raise OptionError("threshold", threshold, f"at most {best}")
    if threshold is not None:
        order = order[peaks[order] >= threshold]
    return order[:top_k]


def save_figure(figure: Any, file: BinaryIO) -> None:
    """Writes a matplotlib figure as PNG."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # in names of classes
        figure.savefig(file, format="png")
