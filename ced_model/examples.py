# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds examples and counter-examples for learning classes in folders, without decoding audio."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .audio import describe, walk_audio
from .class_folders import classes_of
from .classes import fold
from .messages import UsageError, printable

SPLITS = {"train", "training", "test", "validation", "valid", "val", "dev", "eval"}
SHOWN = 5


@dataclass(frozen=True)
class Examples:
    """
    Clips to learn classes from.

    Attributes:
        labels: The names of the classes.
        paths: The clips, counter-examples last.
        classes: Class indices of each clip; none for a counter-example.
        skipped: Clips that are not used, with the reason.
    """

    labels: list[str]
    paths: list[str]
    classes: list[set[int]]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def targets(self) -> np.ndarray:
        """Bool of shape `(clips, classes)`."""
        return np.array([[index in own for index in range(len(self.labels))] for own in self.classes], bool)


def find_examples(folder: str | os.PathLike[str], negatives: Iterable[str | os.PathLike[str]] = ()) -> Examples:
    """
    Finds the clips in a folder with one subfolder per class, and in files and folders of counter-examples.

    Class folders are read as in [`ced_model.labelled`]. A file with the same content in the folders of two classes is
    an example of both.

    Raises:
        UsageError: if there are no class folders, one is empty or repeats another, or there are no counter-examples for
            a single class.
    """
    folder = os.path.expanduser(os.fspath(folder))
    shown = describe(folder)
    if not os.path.isdir(folder):
        raise UsageError(f"{shown}: there is no such folder; expected one with a folder of clips for each class")
    with os.scandir(folder) as entries:
        inner = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    paths = _walk(folder)
    classes = classes_of(folder, paths)
    if not inner:
        raise UsageError(f"{shown}: expected a folder of clips for each class in it")
    if {name.lower() for name in inner} <= SPLITS:
        raise UsageError(f"{shown} has splits, not classes: give one of them, such as {os.path.join(shown, inner[0])}")
    if empty := [name for name in inner if not any(_is_in(os.path.join(folder, name), path) for path in paths)]:
        raise UsageError(f"{shown}: no audio files in the folder of {_names(empty)}")
    labels = sorted(set(classes))
    by_class = {label: [path for path, own in zip(paths, classes, strict=True) if own == label] for label in labels}
    counter = [path for place in negatives for path in _expand(os.path.expanduser(os.fspath(place)))]
    found = _merge(labels, by_class, counter)
    if len(labels) == 1 and not counter:
        raise UsageError(f"{labels[0]!r} is the only class: give counter-examples (`negatives=…`), or a second class")
    return found


def check_names(labels: Sequence[str], existing: Sequence[str]) -> None:
    """Raises a `UsageError` if a class name is not printable, or is given twice or taken, ignoring case."""
    taken = {fold(name): name for name in existing}
    for label in labels:
        if printable(label) != label:
            raise UsageError(f"the folder {printable(label)!r} cannot name a class: its name is not printable text")
        other = taken.get(fold(label))
        if other is not None and other in existing:
            raise UsageError(
                f"the model has a class {other!r} already: rename the folder {label!r}, or leave out the model's"
                " classes (`replace=True`)"
            )
        if other is not None:
            raise UsageError(f"the classes {other!r} and {label!r} have the same name: rename or merge their folders")
        taken[fold(label)] = label


def _merge(labels: list[str], by_class: dict[str, list[str]], negatives: list[str]) -> Examples:
    """Merges files with the same content."""
    digests = _digests([*(path for paths in by_class.values() for path in paths), *negatives])
    place: dict[str, int] = {}
    found = Examples(labels, [], [])
    contents: list[set[str]] = []
    for index, label in enumerate(labels):
        contents.append({digests[path] for path in by_class[label]})
        for path in by_class[label]:
            digest = digests[path]
            if digest not in place:
                place[digest] = len(found.paths)
                found.paths.append(path)
                found.classes.append({index})
            elif index in found.classes[place[digest]]:
                found.skipped.append((describe(path), f"the same as {describe(found.paths[place[digest]])}"))
            else:
                found.classes[place[digest]].add(index)
    for index, content in enumerate(contents):
        other = next((j for j, more in enumerate(contents) if j != index and content <= more), None)
        if other is not None:
            raise UsageError(
                f"the class {labels[index]!r} only repeats {labels[other]!r}: all its clips are in both folders"
            )
    for path in negatives:
        if (index := place.get(digests[path], -1)) >= 0:
            what = "is an example of" if found.classes[index] else "is the same as"
            other_name = labels[min(found.classes[index])] if found.classes[index] else found.paths[index]
            found.skipped.append((describe(path), f"{what} {describe(other_name)}"))
            continue
        place[digests[path]] = len(found.paths)
        found.paths.append(path)
        found.classes.append(set())
    return found


def _digests(paths: list[str]) -> dict[str, str]:
    """Keys that are equal for files with the same content; only files of the same size are read."""
    sizes: dict[int, list[str]] = {}
    digests: dict[str, str] = {}
    for path in paths:
        try:
            sizes.setdefault(os.stat(path).st_size, []).append(path)
        except OSError:
            digests[path] = path  # decoding it will report the reason
    for size, same in sizes.items():
        for path in same:
            try:
                if len(set(same)) == 1 or not size:
                    digests[path] = path
                else:
                    with open(path, "rb") as file:
                        digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                digests[path] = path
    return digests


def _expand(place: str) -> list[str]:
    if os.path.isdir(place):
        if found := _walk(place):
            return found
        raise UsageError(f"{describe(place)}: there are no counter-examples in this folder")
    if not os.path.exists(place):
        raise UsageError(f"{describe(place)}: there are no such counter-examples")
    return [place]


def _is_in(folder: str, path: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _walk(folder: str) -> list[str]:
    return list(walk_audio(folder, []))


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
