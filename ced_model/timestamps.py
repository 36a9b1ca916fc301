# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Aligns decoded frames with their timestamps: fills gaps with silence, drops overlaps."""

from collections.abc import Callable, Iterator

import numpy as np

Frame = tuple[float | None, np.ndarray, float]  # seconds, (channels, samples), Hz

TOLERANCE_S = 0.1  # timestamps are rounded to ms, and encoders delay by up to 60 ms: neither a gap nor an overlap
RESTART_S = 10.0  # a timestamp that goes back by more is a new clock, not an overlap (as for FFmpeg)
MAX_GAP_S = 3600.0  # a longer gap is a damaged timestamp
MAX_UNSTATED_GAP_S = 600.0  # if the duration of the file is unknown


def on_time(
    frames: Iterator[Frame], stated_s: float | None, warn: Callable[[str], object]
) -> Iterator[tuple[np.ndarray, float]]:
    """
    Fills late starts and gaps with silence, and drops overlaps.

    A jump in time counts only if the next frame confirms it. A gap must not be longer than an hour or exceed the
    duration of the file (10 minutes if the duration is unknown). Other gaps, and timestamps that restart, are ignored.

    Args:
        frames: Frames with timestamps from the recording's start; None if there is no timestamp.
        stated_s: Duration of the recording according to the header, if any.
        warn: Called with a line about each gap that is ignored.

    Yields:
        Samples `(channels, samples)`, never empty, and their sampling rate.
    """
    position = clock = 0.0  # seconds of output, and by how much timestamps are ahead of it
    first_s: float | None = None
    for (start_s, samples, rate), following in _with_next(frames):
        length_s = samples.shape[1] / rate
        if start_s is not None:
            first_s = start_s if first_s is None else first_s
            late_s = start_s - clock - position
            if abs(late_s) > TOLERANCE_S and _is_confirmed(late_s, start_s + length_s, following):
                is_restart = late_s < -RESTART_S or (late_s < 0 and start_s <= first_s + TOLERANCE_S)
                fits = late_s <= (MAX_UNSTATED_GAP_S if stated_s is None else min(MAX_GAP_S, stated_s + 1 - position))
                if is_restart or not fits:
                    clock += late_s
                    if not is_restart:
                        warn(f"a timestamp jumps by {late_s:.0f} s at {position:.1f} s: damaged, and ignored")
                elif late_s < 0:
                    samples = samples[:, round(-late_s * rate) :]
                else:
                    for silence in _silence(round(late_s * rate), len(samples), rate):
                        yield silence, rate
                        position += silence.shape[1] / rate
        if samples.shape[1]:
            yield samples, rate
            position += samples.shape[1] / rate


def _with_next(frames: Iterator[Frame]) -> Iterator[tuple[Frame, Frame | None]]:
    frame = next(frames, None)
    while frame is not None:
        following, error = None, None
        try:
            following = next(frames, None)
        except Exception as caught:  # raised after the decoded frame
            error = caught
        yield frame, following
        if error is not None:
            raise error
        frame = following


def _is_confirmed(late_s: float, end_s: float, following: Frame | None) -> bool:
    """Whether the next frame is also late (or early), and not back at the time before the jump."""
    if following is None or following[0] is None:
        return True
    if late_s > 0:
        return following[0] >= end_s - TOLERANCE_S
    return following[0] < end_s - late_s - TOLERANCE_S


def _silence(samples: int, channels: int, rate: float) -> Iterator[np.ndarray]:
    size = max(1, int(rate))
    for start in range(0, samples, size):
        yield np.zeros((channels, min(size, samples - start)), np.float32)
