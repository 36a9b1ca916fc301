# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Matches labels of clips with classes of a model: by name, without leading numbers, or with a label map."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..classes import ClassChoice, choose_classes, similar_names, vocabulary_of
from ..messages import count
from .class_names import describe_unknown
from .clips import SINGLE_LABEL, LabelledClips, shown

NUMBER = re.compile(r"[\W_]*\d+[\W_]+(?=[^\W\d_])")  # leading number, as in "001 - Dog bark" or "3_rain"
NO_CLASS = "?"


class UnknownLabelsError(ValueError):
    """
    Labels that are not classes of the model. The message is one line.

    Attributes:
        labels: The unknown labels.
        classes: The classes of the model.
    """

    def __init__(self, labels: Sequence[str], classes: Sequence[str]) -> None:
        super().__init__(
            f"The clips have labels that are not classes of the model: {describe_unknown(labels, classes)}"
        )
        self.labels, self.classes = labels, classes

    def proposed_map(self) -> list[str]:
        """CSV lines for `label_map`: the most similar class for each label, and other similar ones as comments."""
        lines = []
        for label in self.labels:
            first, *others = similar_names(without_number(label), self.classes) or [NO_CLASS]
            lines.append(_csv_line(first, label))
            lines += [f"# {_csv_line(other, label)}" for other in others]
        return lines


def without_number(name: str) -> str:
    """A name without leading number: "001 - Dog bark" → "Dog bark"."""
    return name[match.end() :] if (match := NUMBER.match(name)) else name


def match_clips(
    clips: LabelledClips,
    classes: Sequence[str],
    label_map: Mapping[str, str | None] | None = None,
    skip_unknown: bool = False,
) -> tuple[LabelledClips, list[ClassChoice]]:
    """
    Replaces the labels of clips by the names of a model's classes, and returns the class or group for each label.

    Args:
        clips: Their labels are matched by name. Case and leading numbers are ignored, and `_` matches a space.
        classes: The classes of the model.
        label_map: Own names of classes and groups, as for [`AudioTagger`].
        skip_unknown: Leave out unknown labels, and in single-label data their clips.

    Raises:
        UnknownLabelsError: if labels are not classes of the model.
        ValueError: if two labels are the same class, or there is only one label.
    """
    choices = choose_classes(classes, label_map=label_map)
    places, notes = _find(clips.labels, choices, classes)
    unknown = [label for label, place in zip(clips.labels, places, strict=True) if place is None]
    if unknown and (not skip_unknown or len(unknown) == len(places)):
        raise UnknownLabelsError(unknown, [choice.label for choice in choices])
    if unknown:
        number = len(clips)
        clips = _without_labels(clips, [place is not None for place in places])
        left = f" with {count(number - len(clips), 'clip')}" if len(clips) < number else ""
        notes.append(f"{count(len(unknown), 'label')} unknown to the model{left} left out: {shown(unknown)}")
    chosen = [choices[place] for place in places if place is not None]
    _check_choices(clips, chosen)
    return replace(clips, labels=[choice.label for choice in chosen], notes=[*clips.notes, *notes]), chosen


def _find(
    labels: Sequence[str], choices: Sequence[ClassChoice], classes: Sequence[str]
) -> tuple[list[int | None], list[str]]:
    """The index in `choices` for each label, and notes."""
    names = [choice.label for choice in choices]
    own, plain, model = vocabulary_of(names), vocabulary_of([*map(without_number, names)]), vocabulary_of(classes)
    places: list[int | None] = []
    numbered: list[tuple[str, str]] = []
    for label in labels:
        place = own.find(label)
        if place is None and (index := model.find(label)) is not None:  # a class renamed by the label map
            place = next((place for place, choice in enumerate(choices) if index in choice.indices), None)
        if place is None and (place := plain.find(without_number(label))) is not None:
            numbered.append((label, names[place]))
        places.append(place)
    if not numbered:
        return places, []
    label, name = numbered[0]
    return places, [f"{count(len(numbered), 'label')} matched without numbers, such as {label!r} with {name!r}"]


def _without_labels(clips: LabelledClips, kept: Sequence[bool]) -> LabelledClips:
    labels = [label for label, is_kept in zip(clips.labels, kept, strict=True) if is_kept]
    clips = replace(clips, labels=labels, targets=clips.targets[:, np.flatnonzero(kept)])
    return clips.select(np.flatnonzero(clips.targets.any(axis=1))) if clips.problem_type == SINGLE_LABEL else clips


def _check_choices(clips: LabelledClips, chosen: Sequence[ClassChoice]) -> None:
    for choice in chosen:
        if len(same := [label for label, each in zip(clips.labels, chosen, strict=True) if each == choice]) > 1:
            raise ValueError(f"{' and '.join(map(repr, same))} are the same class of the model, {choice.label!r}.")
    if clips.problem_type == SINGLE_LABEL and len(chosen) < 2:
        raise ValueError(f"All clips are {clips.labels[0]!r}: at least two classes are needed.")


def _csv_line(*cells: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
