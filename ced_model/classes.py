# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Classes of a model, found by name, index, machine id or as a group."""

import difflib
import numbers
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from .audioset import AUDIOSET_CLASSES
from .messages import OptionError, UsageError, printable

if TYPE_CHECKING:
    import numpy as np

GROUP = "..."  # after a name: the class and all classes below it
NO_INDEX = -1  # class index of a group
NAME_OF_MID = dict(AUDIOSET_CLASSES)
MOST_PIECES = 6  # maximum number of parts, separated by commas, of a name
MIN_SIMILARITY = 0.8  # of misspelt words; "woof" and "wood" have 0.75
STEM = 5  # letters that "crackle" and "crackling" share
FAR = 0.25  # names that are less similar than the best one by this much are not suggested


class ClassChoice(NamedTuple):
    """
    A class, or several under one name.

    Attributes:
        label: The name in outputs.
        indices: Indices of the classes; the score is the maximum of their scores.
        index: The class index, -1 for several classes.
    """

    label: str
    indices: tuple[int, ...]
    index: int  # type: ignore[assignment]  # tuple.index is not missed


class FileText(str):
    """Text from a file, with its place for messages, such as `"map.csv, line 3"`."""

    place: str = ""

    @classmethod
    def at(cls, text: str, place: str) -> "FileText":
        made = cls(text)
        made.place = place
        return made


class Vocabulary:
    """Finds classes of a model by name."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self._exact = {name: index for index, name in enumerate(labels)}
        self._folded: dict[str, int | None] = {}
        for index, name in enumerate(labels):
            folded = fold(name)
            self._folded[folded] = None if folded in self._folded else index  # None: ambiguous

    def find(self, name: str) -> int | None:
        """Index of the class with this name (in any case, with `_` or spaces) or machine id."""
        for candidate in (name, NAME_OF_MID.get(name, name)):
            index = self._exact.get(candidate)
            if index is None:
                index = self._folded.get(fold(candidate))
            if index is not None:
                return index
        return None

    def choose(self, name: Any) -> ClassChoice | None:
        """The class with this name, machine id or index, or, with `...` after it, the group of it and all below it."""
        if isinstance(name, numbers.Integral) and not isinstance(name, bool):
            return self._at(int(name))
        if not isinstance(name, str):
            return None
        name = name.strip()
        index = self.find(name)
        if index is not None:
            return self._at(index)
        if name.isdecimal() and name.isascii():
            return self._at(int(name))
        name = name.replace("…", GROUP)
        return self._group(name.removesuffix(GROUP).strip()) if name.endswith(GROUP) else None

    def _at(self, index: int) -> ClassChoice | None:
        if not 0 <= index < len(self.labels):
            return None
        return ClassChoice(self.labels[index], (index,), index)

    def _group(self, name: str) -> ClassChoice | None:
        top = self.choose(name) if name.isdecimal() else None
        name = name if top is None else top.label
        names = _ontology().group(name) or _ontology().group(fold(name))
        indices = [index for index in map(self.find, names or []) if index is not None]
        return ClassChoice(names[0] + GROUP, tuple(dict.fromkeys(indices)), NO_INDEX) if names and indices else None


def split_names(pieces: Sequence[str], is_name: Callable[[str], bool]) -> list[str] | None:
    """Joins `pieces` of a text that was split at commas to names, the first ones as long as possible, or None."""
    rests: list[list[str] | None] = [None] * len(pieces) + [[]]  # names that start at each piece
    for start in reversed(range(len(pieces))):
        for end in range(start + 1, min(start + MOST_PIECES, len(pieces)) + 1):
            name, rest = ", ".join(pieces[start:end]), rests[end]
            if rest is not None and is_name(name):
                rests[start] = [name, *rest]  # a longer one would follow
    return rests[0]


def _first_unknown(pieces: list[str], choose: Callable[[str], ClassChoice | None]) -> str:
    while len(pieces) > 1:
        lengths = range(min(MOST_PIECES, len(pieces)), 0, -1)
        known = next((length for length in lengths if choose(", ".join(pieces[:length]))), 0)
        if not known or known == len(pieces):
            break
        pieces = pieces[known:]
    return pieces[0] if pieces else ""


def fold(name: str) -> str:
    """A name in lower case, with spaces for `_` and composed accents, for comparisons."""
    return " ".join(unicodedata.normalize("NFC", name.replace("_", " ").casefold()).split())


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def similar_names(text: str, names: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """
    Up to `most` names similar to `text`, the most similar first.

    A name is similar to the text if the ratio of difflib is at least `cutoff`; a word of it (or a part between commas)
    is similar to a word of the text if they are nearly equal or begin alike.
    """
    whole = " ".join(words_of(text))
    wanted = {word: 0.83 for word in words_of(text) if len(word) > 2} | {whole: 1.0}
    matcher = difflib.SequenceMatcher()
    best: dict[str, float] = {}
    for name in names if whole else ():
        words = words_of(name)
        candidates = {word: 0.85 for word in words if len(word) > 2}
        candidates |= {" ".join(words_of(part)): 0.95 for part in name.split(",")} | {" ".join(words): 1.0}
        for each, weight in wanted.items():
            matcher.set_seq2(each)
            for candidate, share in candidates.items():
                lowest = cutoff if weight * share == 1 else MIN_SIMILARITY
                if (likeness := _likeness(matcher, candidate, each, lowest)) >= lowest:
                    best[name] = max(best.get(name, 0), weight * share * likeness)
    near = [name for name in best if best[name] >= max(best.values()) - FAR]
    return sorted(near, key=lambda name: -best[name])[:most]


def _likeness(matcher: difflib.SequenceMatcher, candidate: str, wanted: str, lowest: float) -> float:
    """1 if equal, 0.9 if one begins with the other, 0.87 with the same stem, else difflib's ratio if ≥ `lowest`."""
    if candidate == wanted:
        return 1.0
    shorter, longer = sorted((candidate, wanted), key=len)
    if len(shorter) > 3 and longer.startswith(shorter) and (" " in shorter or " " not in longer):
        return 0.9
    if len(shorter) > STEM and candidate[:STEM] == wanted[:STEM] and " " not in candidate + wanted:
        return 0.87
    matcher.set_seq1(candidate)
    return matcher.ratio() if matcher.real_quick_ratio() >= lowest and matcher.quick_ratio() >= lowest else 0.0


def _ontology() -> Any:
    """Imported lazily, since the ontology is not part of the custom code of a model folder."""
    try:
        return import_module("ced_model.ontology")
    except ImportError as error:
        raise UsageError("groups of classes require the package ced_model: pip install ced_model") from error


@lru_cache(maxsize=8)
def _vocabulary(labels: tuple[str, ...]) -> Vocabulary:
    return Vocabulary(labels)


def vocabulary_of(labels: Sequence[str]) -> Vocabulary:
    return _vocabulary(tuple(labels))


def find_choice(labels: Sequence[str], name: Any, option: str = "labels") -> ClassChoice:
    """
    A class or group by one name, index or machine id.

    Raises:
        OptionError: if there is no such class, with similar names.
    """
    choice = vocabulary_of(labels).choose(name)
    if choice is None:
        raise unknown_class(labels, name, option)
    return choice


def unknown_class(labels: Sequence[str], name: Any, option: str) -> UsageError:
    """The error for an unknown class or group, with similar names."""
    if not isinstance(name, str):
        return OptionError(option, name, "names of classes")
    expected = "a class of the model"
    names = list(labels)
    base = name.strip().replace("…", GROUP)
    if is_group := base.endswith(GROUP):
        base = base.removesuffix(GROUP).strip()
        expected = "a group of AudioSet's ontology with classes of this model"
        names += [node.name for node in _ontology().nodes().values() if node.name not in labels]
        names = list({fold(each): each for each in names if _group_of(labels, each) is not None}.values())
    elif fold(base) not in map(fold, labels) and (group := _group_of(labels, base)) is not None:
        expected += f"; did you mean {group.label!r}, all classes below it?"
        names = []
    hint = ", ".join(repr(printable(label) + GROUP * is_group) for label in similar_names(base, names))
    expected += f"; did you mean {hint}?" if hint else ""
    place = getattr(name, "place", "")
    return (
        UsageError(f"{place}: {printable(name)!r}: expected {expected}")
        if place
        else OptionError(option, str(name), expected)
    )


def _group_of(labels: Sequence[str], name: str) -> ClassChoice | None:
    with suppress(UsageError):  # without the ontology
        return vocabulary_of(labels).choose(f"{name}{GROUP}")
    return None


def find_choices(
    labels: Sequence[str], wanted: Any, option: str = "labels", own: Mapping[str, ClassChoice] | None = None
) -> list[ClassChoice]:
    """
    The classes and groups in a list, or in a text with names separated by commas, without duplicates.

    Names may contain commas. `own` are names from a label map.

    Raises:
        OptionError: for an unknown class or group, with similar names.
    """
    if isinstance(wanted, str):
        wanted = [wanted]
    if not isinstance(wanted, Iterable) or isinstance(wanted, Mapping | bytes):
        raise OptionError(option, wanted, "names of classes")
    vocabulary, own = vocabulary_of(labels), own or {}

    def choose(name: Any) -> ClassChoice | None:
        return own[name] if isinstance(name, str) and name in own else vocabulary.choose(name)

    found: list[ClassChoice] = []
    for name in wanted:
        if (choice := choose(name)) is not None:
            found.append(choice)
            continue
        if not isinstance(name, str):
            raise unknown_class(labels, name, option)
        pieces = [piece for piece in map(str.strip, name.split(",")) if piece]
        names = split_names(pieces, lambda name: choose(name) is not None)
        if names is None:
            wrong = FileText.at(_first_unknown(pieces, choose), getattr(name, "place", ""))
            raise unknown_class(labels, wrong, option)
        found += [choice for choice in map(choose, names) if choice is not None]
    return list(dict.fromkeys(found))


def choose_classes(
    labels: Sequence[str],
    wanted: Any = None,
    *,
    exclude: Any = None,
    label_map: Mapping[str, str | None] | None = None,
) -> list[ClassChoice]:
    """
    Chooses classes and groups for outputs, in the order of the model's classes, then groups.

    Args:
        labels: The classes of the model.
        wanted: Classes and groups, as a list or as a text with names separated by commas; by default all classes.
        exclude: Classes and groups to leave out.
        label_map: Your own names for classes and groups. Classes with the same name become one with the highest of
            their scores; an empty name or None leaves a class out.

    Raises:
        OptionError: for an unknown class or group.
    """
    everything = [ClassChoice(label, (index,), index) for index, label in enumerate(labels)]
    own: dict[str, ClassChoice] = {}
    if label_map is None:
        choices = everything if wanted is None else find_choices(labels, wanted)
    else:
        choices = renamed = _renamed(everything, labels, label_map)
        own = {choice.label: choice for choice in renamed if choice.label in label_map.values()}
        if wanted is not None:  # names of the label map count, too
            found = find_choices(labels, wanted, own=own)
            mine = [choice for choice in found if choice in own.values()]
            others = [choice for choice in found if choice not in mine]
            choices = list(dict.fromkeys(mine + _renamed(others, labels, label_map)))
    if exclude is not None:
        out = {index for choice in find_choices(labels, exclude, "exclude", own) for index in choice.indices}
        kept = [tuple(index for index in choice.indices if index not in out) for choice in choices]
        choices = [choice._replace(indices=left) for choice, left in zip(choices, kept, strict=True) if left]
    return sorted(choices, key=lambda choice: choice.index if choice.index != NO_INDEX else len(labels))


def _renamed(
    choices: list[ClassChoice], labels: Sequence[str], label_map: Mapping[str, str | None]
) -> list[ClassChoice]:
    if not isinstance(label_map, Mapping):
        raise OptionError("label_map", label_map, "a mapping from classes to names")
    names: dict[ClassChoice, str] = {}
    by_index: dict[int, str] = {}
    for key, name in label_map.items():
        if name is not None and not isinstance(name, str):
            raise OptionError(f"label_map[{str(key)!r}]", name, "a name, or an empty one to leave the class out")
        choice = find_choice(labels, key, "label_map")
        by_class = (name or "").strip()
        if names.setdefault(choice, by_class) != by_class:
            named = f"one name for {choice.label!r}, not {names[choice]!r} as well"
            place = getattr(key, "place", "")
            raise (
                UsageError(f"{place}: {by_class!r}: expected {named}")
                if place
                else OptionError("label_map", key, named)
            )
        for index in choice.indices:
            if choice.index != NO_INDEX:
                by_index[index] = by_class
            else:
                by_index.setdefault(index, by_class)
    merged: dict[str, ClassChoice] = {}
    for choice in choices:
        own = names.get(choice, by_index.get(choice.index) if choice.index != NO_INDEX else None)
        label = choice.label if own is None else own
        if not label:
            continue
        before = merged.get(label)
        if before is not None:
            indices = tuple(dict.fromkeys(before.indices + choice.indices))
            choice = ClassChoice(label, indices, NO_INDEX)
        merged[label] = choice._replace(label=label)
    return list(merged.values())


def choice_scores(scores: "np.ndarray", choices: Sequence[ClassChoice]) -> "np.ndarray":
    """Scores `(..., classes)` → `(..., choices)`: the maximum over the classes of each choice."""
    found = scores[..., [choice.indices[0] for choice in choices]]
    for column, choice in enumerate(choices):
        if len(choice.indices) > 1:
            found[..., column] = scores[..., list(choice.indices)].max(axis=-1)
    return found
