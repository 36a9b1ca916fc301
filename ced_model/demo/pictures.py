# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The timeline of a recording as HTML: pictures of log-mel and scores for wide and narrow screens, and a text."""

import base64
import io
import warnings
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..drawing import BLOCK_FRAMES, NARROW, WIDE, highest_classes, make_figure, mel_picture
from ..log_mel import FrontEnd
from .answer import Answer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_ROWS, MAX_ROWS = 3, 12
MAX_COLUMNS = 2048
PHONE_PIXELS = 640


def draw_timeline(answer: Answer, front_end: FrontEnd, threshold: float) -> str:
    """
    A `<figure>` with the classes that reach the threshold: at most 12, and some others if there are few.

    The pictures are inside the HTML, so no file is left on the server. Phones show a narrower one.
    """
    rows = count_rows(answer, threshold)
    decibels, column_s = mel_picture(_blocks(answer.waveform, front_end), front_end, MAX_COLUMNS)
    wide, narrow = (
        _png(make_figure(decibels, column_s, answer.timeline, front_end, "", rows, layout)) for layout in (WIDE, NARROW)
    )
    words = escape(describe_timeline(answer, rows))
    return (
        f'<figure class="ced-timeline"><picture><source media="(max-width: {PHONE_PIXELS}px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="{words}"></picture>'
        "<figcaption>Above: the log-mel spectrogram, the input of the model. Below: the scores of the sounds, from"
        f" dark (0) to yellow (1), on the same time axis.</figcaption></figure><details><summary>The timeline in words"
        f"</summary><p>{words}</p></details>"
    )


def count_rows(answer: Answer, threshold: float) -> int:
    """The number of classes to draw."""
    present = int((answer.timeline.scores.max(axis=0) >= threshold).sum())
    return min(max(present, MIN_ROWS), MAX_ROWS, answer.timeline.scores.shape[1])


def describe_timeline(answer: Answer, rows: int) -> str:
    """The picture in words, for screen readers: each class with its peak score and its time."""
    timeline = answer.timeline
    segments = timeline.segments()
    parts = []
    for index in highest_classes(timeline, rows):
        window = int(np.argmax(timeline.scores[:, index]))
        start_s, end_s = segments[window]
        parts.append(f"{timeline.labels[index]} {timeline.scores[window, index]:.2f} at {start_s:.1f} to {end_s:.1f} s")
    return f"Highest scores over {answer.duration_s:.1f} seconds: {'; '.join(parts)}."


def _blocks(waveform: np.ndarray, front_end: FrontEnd) -> Iterator[np.ndarray]:
    size = BLOCK_FRAMES * front_end.hop_size
    for start in range(0, len(waveform), size):
        yield waveform[start : start + size]


def _png(figure: "Figure") -> str:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # in names of classes
        figure.savefig(content, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
