# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Chooses events of many recordings and writes them as clips."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .clip_files import cut_parts, file_name, part_name, write_part
from .events import Event
from .messages import OptionError, one_line
from .output import write_file

CHOICES = ("best", "random", "spread")
COLUMNS = ("clip", "file", "label", "start_s", "end_s", "onset_s", "offset_s", "peak")


class Clip(NamedTuple):
    """
    An event that is written as a clip. Times are in seconds.

    Attributes:
        clip: Path of the clip, relative to the folder of clips.
        file: The recording.
        label: The class.
        start_s, end_s: Start and end of the clip in the recording, with padding.
        onset_s, offset_s: Onset and offset of the event in the recording.
        peak: Highest score of the event.
    """

    clip: str
    file: str
    label: str
    start_s: float
    end_s: float
    onset_s: float
    offset_s: float
    peak: float


def check_choice(choose: str) -> None:
    if choose not in CHOICES:
        raise OptionError("choose", choose, ", ".join(CHOICES))


def choose_clips(
    recordings: Iterable[Mapping[str, Any]],
    *,
    padding_s: float,
    most: int | None,
    choose: str,
    seed: int,
    format: str,
) -> list[Clip]:
    """
    Chooses the events that become clips, ordered by recording and time.

    Args:
        recordings: Records of events.
        padding_s: Seconds before and after each event.
        most: Maximum number of clips per class.
        choose: Which events to take if there are more: those with the best scores, random ones, or an equal number from
            each part of the range of scores.
        seed: Seed of the random choice.
        format: `"wav"` or `"flac"`.
    """
    events = [
        (each["file"], each["duration_s"], *(event[name] for name in Event._fields))
        for each in recordings
        for event in each["events"]
    ]
    by_class: dict[str, list[int]] = {}
    for index, event in enumerate(events):
        by_class.setdefault(event[4], []).append(index)
    rng = np.random.default_rng(seed)
    kept = sorted(
        index
        for label in sorted(by_class)
        for index in _choose(by_class[label], [events[i][5] for i in by_class[label]], most, choose, rng)
    )
    clips, names = [], set()
    for index in kept:
        file, duration_s, onset_s, offset_s, label, peak = events[index]
        start_s, end_s = max(0.0, onset_s - padding_s), min(duration_s, offset_s + padding_s)
        name = whole = os.path.join(file_name(label), part_name(file, start_s, format))
        number = 1
        while name.lower() in names:  # recordings with the same name in several folders
            number += 1
            name = f"{whole.removesuffix(f'.{format}')}-{number}.{format}"
        names.add(name.lower())
        clips.append(Clip(name, file, label, round(start_s, 6), round(end_s, 6), onset_s, offset_s, peak))
    return clips


def _choose(
    indices: Sequence[int], scores: Sequence[float], most: int | None, choose: str, rng: np.random.Generator
) -> list[int]:
    if most is None or len(indices) <= most:
        return list(indices)
    if choose == "random":
        places = rng.choice(len(indices), most, replace=False)
    else:
        places = np.argsort(-np.asarray(scores), kind="stable")
        if choose == "spread":
            places = places[np.linspace(0, len(indices) - 1, most).round().astype(int)]
    return [indices[place] for place in places[:most]]


def write_clips(
    clips: Sequence[Clip],
    folder: str,
    path_of: Callable[[str], str],
    format: str,
    on_error: Callable[[str, str], object],
) -> list[Clip]:
    """
    Writes the clips that do not exist yet, then the table `clips.csv`.

    Args:
        path_of: Returns the path of a recording by its name.
        on_error: Called with the name of a recording that cannot be read, and the reason.

    Returns:
        The clips that exist.
    """
    written = []
    by_file: dict[str, list[Clip]] = {}
    for clip in clips:
        by_file.setdefault(clip.file, []).append(clip)
    for file, own in by_file.items():
        waiting = [clip for clip in own if not os.path.exists(os.path.join(folder, clip.clip))]
        written += [clip for clip in own if clip not in waiting]
        try:
            parts = cut_parts(path_of(file), [(clip.start_s, clip.end_s) for clip in waiting]) if waiting else []
            for clip, part in zip(waiting, parts, strict=True):
                path = os.path.join(folder, clip.clip)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                write_part(part, path, format)
                written.append(clip)
        except (OSError, ValueError) as error:
            on_error(file, one_line(error).removeprefix(f"{file}: "))
    order = {clip: place for place, clip in enumerate(clips)}
    written.sort(key=lambda clip: order[clip])
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerows([COLUMNS, *written])
    write_file(os.path.join(folder, "clips.csv"), text.getvalue().encode())
    return written
