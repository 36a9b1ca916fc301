# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Plots the log-mel spectrogram of a recording and its tags over time. Requires matplotlib (extra `[plot]`)."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .log_mel import FrontEnd, log_mel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .results import Timeline

MAX_COLUMNS = 4096  # of plots over time; an even number, more than the some 1,500 that a screen shows
BLOCK_FRAMES = 4096  # frames computed at a time
RANGE_DB = 80  # range of the colours, below the maximum
TIME_STEPS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)  # followed by minutes and hours
FREQUENCIES_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000)
FEW_FREQUENCIES_HZ = (250, 1000, 4000)


class Layout(NamedTuple):
    """Size of a figure, and what fits into it."""

    width_inches: float
    mel_inches: float  # height of the spectrogram
    dpi: int
    label_length: int  # of the names of classes, in characters
    max_times: int  # at which the time axis has labels
    is_roomy: bool  # with colour bars on the right and all frequencies, or only a bar for scores below


WIDE = Layout(13, 2.6, 130, 44, 12, True)
NARROW = Layout(4.4, 1.6, 170, 20, 5, False)  # for a phone, held upright


def mel_picture(blocks: Iterable[np.ndarray], front_end: FrontEnd, max_columns: int) -> tuple[np.ndarray, float]:
    """
    The log-mel spectrogram of a recording of any length, in bounded memory.

    Args:
        blocks: The recording, in blocks whose lengths (except the last) are multiples of `hop_size`.
        front_end: The parameters of the front end.
        max_columns: Maximum number of columns, an even number. A column is the mean power of 1, 2, 4, … frames; the
            last one has the remaining frames.

    Returns:
        Decibels, float64 of shape `(n_mels, columns)`, and the length of a column in seconds.
    """
    sums = np.zeros((max_columns, front_end.n_mels))
    counts = np.zeros(max_columns)
    frames, frames_per_column = 0, 1
    for block in blocks:
        samples = np.pad(block, (0, max(0, front_end.min_samples - len(block))))
        number = max(1, len(block) // front_end.hop_size)  # the frame on the border belongs to the next block
        power = 10 ** (log_mel(samples, front_end)[:, :number].T.astype(np.float64) / 10)
        while frames + number > max_columns * frames_per_column:
            sums[: max_columns // 2], sums[max_columns // 2 :] = sums[::2] + sums[1::2], 0
            counts[: max_columns // 2], counts[max_columns // 2 :] = counts[::2] + counts[1::2], 0
            frames_per_column *= 2
        columns = (frames + np.arange(number)) // frames_per_column
        np.add.at(sums, columns, power)
        np.add.at(counts, columns, 1)
        frames += number
    used = math.ceil(frames / frames_per_column)
    decibels = 10 * np.log10(sums[:used] / counts[:used, np.newaxis]).T
    return decibels, frames_per_column * front_end.hop_size / front_end.sampling_rate


def tag_picture(timeline: "Timeline", classes: np.ndarray, max_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Scores of some classes over time, `(classes, columns)`, and the borders of the columns in seconds.

    If the timeline has more windows than `max_columns`, a column is the maximum of several windows, so that short
    events remain visible.
    """
    segments = timeline.segments()
    windows_per_column = math.ceil(len(segments) / max_columns)
    starts = np.arange(0, len(segments), windows_per_column)
    scores = np.maximum.reduceat(timeline.scores[:, classes], starts, axis=0).T
    return scores, np.append(segments[starts, 0], segments[-1, 1])


def make_figure(
    decibels: np.ndarray,
    column_s: float,
    timeline: "Timeline",
    front_end: FrontEnd,
    title: str,
    top_k: int,
    layout: Layout = WIDE,
    *,
    classes: np.ndarray | None = None,
    start_s: float = 0.0,
) -> "Figure":
    """
    Plots the spectrogram of `mel_picture` above the `top_k` classes with the highest peaks, on the same time axis.

    `title` may be empty. `classes` are the indices of the classes to draw instead, in order; `start_s` is the start of
    the audio in its recording, in seconds.
    """
    from matplotlib.figure import Figure

    classes = highest_classes(timeline, top_k) if classes is None else classes
    timeline = replace(timeline, start_s=timeline.start_s + start_s, end_s=timeline.end_s + start_s)
    rows_inches = max(1.0, 0.27 * len(classes))
    bar_below_inches = 0.0 if layout.is_roomy else 0.5
    height_inches = layout.mel_inches + rows_inches + bar_below_inches + (1.3 if title else 0.9)
    figure = Figure(figsize=(layout.width_inches, height_inches), dpi=layout.dpi, layout="constrained")
    mel_axes, tag_axes = figure.subplots(
        2, 1, sharex=True, height_ratios=[layout.mel_inches, rows_inches + bar_below_inches]
    )
    if title:
        figure.suptitle(shortened(title, 110), fontsize=12, parse_math=False)
    _draw_mel(mel_axes, decibels, column_s, front_end, layout, start_s)
    _draw_tags(tag_axes, timeline, classes, layout)
    _label_times(tag_axes, start_s, start_s + timeline.duration_s, layout.max_times)
    return figure


def highest_classes(timeline: "Timeline", top_k: int) -> np.ndarray:
    """Indices of the `top_k` classes with the highest peaks, in descending order."""
    return np.argsort(-timeline.scores.max(axis=0), kind="stable")[:top_k]


def _draw_mel(
    axes: "Axes", decibels: np.ndarray, column_s: float, front_end: FrontEnd, layout: Layout, start_s: float
) -> None:
    loudest = decibels.max()
    image = axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        interpolation="nearest" if decibels.shape[1] < layout.width_inches * layout.dpi else "antialiased",
        extent=(start_s, start_s + decibels.shape[1] * column_s, 0, len(decibels)),
        cmap="magma",
        vmin=max(decibels.min(), loudest - RANGE_DB) - 1e-3,
        vmax=loudest,
    )
    _label_frequencies(axes, front_end, FREQUENCIES_HZ if layout.is_roomy else FEW_FREQUENCIES_HZ)
    if layout.is_roomy:
        axes.figure.colorbar(image, ax=axes, label="power (dB)", pad=0.01, aspect=18)


def _draw_tags(axes: "Axes", timeline: "Timeline", classes: np.ndarray, layout: Layout) -> None:
    scores, borders_s = tag_picture(timeline, classes, MAX_COLUMNS)
    is_probability = 0 <= scores.min() and scores.max() <= 1
    image = axes.pcolormesh(
        borders_s,
        np.arange(len(classes) + 1),
        scores,
        cmap="viridis",
        vmin=0 if is_probability else None,
        vmax=1 if is_probability else None,
        rasterized=True,
    )
    _label_classes(axes, [timeline.labels[index] for index in classes], layout.label_length)
    if layout.is_roomy:
        axes.figure.colorbar(image, ax=axes, label="score", pad=0.01, aspect=18)
    else:
        axes.figure.colorbar(image, ax=axes, label="score", location="bottom", pad=0.02, aspect=30)


def _label_frequencies(axes: "Axes", front_end: FrontEnd, frequencies_hz: tuple[int, ...]) -> None:
    """Frequencies at their mel bins: bin `i` of `n` is centred on step `i + 1` of `n + 1` from `f_min` to `f_max`."""
    f_max = front_end.sampling_rate / 2 if front_end.f_max is None else front_end.f_max
    low, high = _mel(front_end.f_min), _mel(f_max)
    shown = [hertz for hertz in frequencies_hz if front_end.f_min <= hertz <= f_max]
    steps = [(_mel(hertz) - low) / (high - low) * (front_end.n_mels + 1) - 0.5 for hertz in shown]
    ticks = [(min(step, front_end.n_mels), hertz) for step, hertz in zip(steps, shown, strict=True) if step >= 0]
    axes.set_yticks([step for step, _ in ticks], [f"{hz / 1000:g} k" if hz >= 1000 else str(hz) for _, hz in ticks])
    axes.set_ylabel("frequency (Hz), mel scale" if frequencies_hz == FREQUENCIES_HZ else "Hz")


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)  # the HTK scale, as in the front end


def _label_classes(axes: "Axes", names: list[str], label_length: int) -> None:
    axes.set_yticks(np.arange(len(names)) + 0.5, [shortened(name, label_length) for name in names])
    axes.tick_params(axis="y", length=0)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a $ is a $
    axes.set_ylim(len(names), 0)  # the highest peak on top
    axes.hlines(range(1, len(names)), *axes.get_xlim(), colors="white", linewidth=0.8)


def _label_times(axes: "Axes", start_s: float, end_s: float, max_times: int) -> None:
    steps = [*TIME_STEPS_S, *(60 * step for step in TIME_STEPS_S[6:]), *(3600 * 2**power for power in range(30))]
    step = next(step for step in steps if (end_s - start_s) / step <= max_times)
    ticks = np.arange(math.ceil(start_s / step), math.floor(end_s / step) + 1) * step
    axes.set_xlim(start_s, end_s)
    axes.set_xticks(ticks, [time_label(tick, step) for tick in ticks])
    axes.set_xlabel("time (s)" if end_s < 60 else "time (min:s)" if end_s < 3600 else "time (h:min:s)")


def time_label(seconds: float, step: float) -> str:
    """2.5, 1:05 or 1:00:05, with as many decimals as `step` has."""
    decimals = max(0, -math.floor(math.log10(step)))
    if seconds < 60:
        return f"{seconds:.{decimals}f}"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def shortened(text: str, length: int) -> str:
    """The text, cut to `length` characters including `…` if it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"
