# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced plot`: the log-mel spectrogram and the tags over time of a recording, as a PNG."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines import choose_engine
from .errors import FAILED, CliError
from .model import choose_model, load_tagger, parse_channel
from .terminal import put

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .. import AudioTagger

INSTALL_PLOT = 'pip install "ced_model[plot]"'

TOP_K = 10


def plot_file(
    file: Path,
    *,
    model: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    window_s: float | None = None,
    hop_s: float | None = None,
    top_k: int | None = None,
    channel: str | None = None,
    engine: str | None = None,
    compute_type: str | None = None,
) -> None:
    """
    Draws a recording of any length and prints the path of the PNG.

    Args:
        file: the recording.
        model: a model folder or Hub id.
        output: the PNG, by default `file` with `.png` appended.
        overwrite: replace a file that is there, once the new one is complete.
        window_s, hop_s: windows of the timeline in seconds, by default 2 s and half a window.
        top_k: number of classes, those with the highest peaks; 10 by default.
        channel: of the recording: mix, loudest or a number; mix by default.
        engine, compute_type: what computes the model, as for `AudioTagger`.

    Raises:
        CliError: for wrong usage, if matplotlib is missing, or if the file cannot be read.
    """
    path = _checked_output(file, output, overwrite)
    chosen = parse_channel(channel)
    choose_engine(engine or "auto", compute_type)
    name = choose_model(model)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise CliError(f"drawing needs matplotlib: {INSTALL_PLOT}", FAILED) from error
    if not file.exists():
        raise CliError(f"{str(file)!r}: there is no such file", FAILED)
    tagger = load_tagger(name, engine=engine, compute_type=compute_type)
    figure = _draw(tagger, file, window_s, hop_s, top_k or TOP_K, chosen)
    _save(figure, path, overwrite)
    put(str(path))


def _checked_output(file: Path, output: Path | None, overwrite: bool) -> Path:
    path = Path(f"{file}.png") if output is None else output
    if path.suffix.lower() != ".png":
        raise CliError(f"--output {path}: the picture is a PNG, give a name that ends in .png")
    if path.is_dir():
        raise CliError(f"--output {path}: a folder; give a file name")
    if not path.parent.is_dir():
        raise CliError(f"--output {path}: there is no folder {str(path.parent)!r}")
    if path.exists() and not overwrite:
        raise CliError(f"{path} exists: add --overwrite, or give another --output")
    return path


def _draw(
    tagger: "AudioTagger", file: Path, window_s: float | None, hop_s: float | None, top_k: int, channel: str | int
) -> "Figure":
    from .. import AudioError
    from ..audio import describe, read_blocks
    from ..drawing import BLOCK_FRAMES, MAX_COLUMNS, make_figure, mel_picture
    from ..tagger import TIMELINE_WINDOW_S

    front_end = tagger.front_end
    try:
        window_s = TIMELINE_WINDOW_S if window_s is None else window_s
        timeline = tagger.timeline(file, window_s=window_s, hop_s=hop_s, channel=channel)
        block_s = BLOCK_FRAMES * front_end.hop_size / front_end.sampling_rate
        blocks = read_blocks(file, sampling_rate=front_end.sampling_rate, block_s=block_s, channel=channel)
        decibels, column_s = mel_picture(blocks, front_end, MAX_COLUMNS)
    except AudioError as error:
        raise CliError(str(error), FAILED) from error
    return make_figure(decibels, column_s, timeline, front_end, describe(file.name), top_k)


def _save(figure: Any, path: Path, overwrite: bool) -> None:
    from ..output import new_file

    try:
        with warnings.catch_warnings(), new_file(path, overwrite) as file:
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in scripts that the font lacks
            figure.savefig(file, format="png")
    except OSError as error:
        raise CliError(f"--output {path}: {error.strerror or error}", FAILED) from error
