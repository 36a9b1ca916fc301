# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of events, of a model or from a file, with strong labels."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from .audio import MIX
from .classes import NAME_OF_MID, FileText, choose_classes, fold, unknown_class
from .event_scores import EventScores, ScoringOptions, score_events
from .events import THRESHOLD, event_rules
from .input_list import escape_name
from .labelled import Skipped
from .messages import OptionError, UsageError, one_line, printable
from .psds import Frames, check_psds, psds, smoothed_frames
from .strong_labels import Recording, StrongEvent, read_event_file, read_strong_labels
from .tagger import AudioTagger


@dataclass(frozen=True)
class EventEvaluation:
    """
    Metrics of events.

    Attributes:
        scores: Event-based and segment-based metrics.
        psds: `PSDS1` and `PSDS2`, with `with_psds=True`.
        labels: The classes that were compared.
        num_recordings: Number of recordings that were compared.
        failed: Recordings that could not be read to their end, with the reason; they are left out.
        notes: Remarks on the evaluation, one line each.
    """

    scores: EventScores
    psds: dict[str, float] | None
    labels: list[str]
    num_recordings: int
    failed: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def evaluate_events(
    model: AudioTagger | str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    audio_root: str | os.PathLike[str] | None = None,
    labels: Any = None,
    label_map: Mapping[str, str | None] | None = None,
    thresholds: float | Mapping[str, Any] = THRESHOLD,
    window_s: float | None = None,
    hop_s: float | None = None,
    channel: str | int = MIX,
    finding: Mapping[str, Any] | None = None,
    with_psds: bool = False,
    on_audio: Callable[[float], object] | None = None,
    on_recording: Callable[[str, str | None], object] | None = None,
    on_start: Callable[[int], object] | None = None,
    **scoring: Any,
) -> EventEvaluation:
    """
    Finds events in labelled recordings and compares them with the labels.

    Args:
        model: A tagger, or the folder or Hub id of a model.
        data: Strong labels, see [`read_strong_labels`].
        audio_root: Folder of relative paths, by default that of `data`, then the current one.
        labels: The classes to compare, as for [`AudioTagger.tag`]; by default those of the labels.
        label_map, thresholds: As for [`Timeline.events`].
        window_s, hop_s, channel: As for [`AudioTagger.timelines`].
        finding: Other arguments of [`Timeline.events`], such as `smooth_s`.
        with_psds: Whether to compute the PSDS, too.
        on_audio: Called with the number of seconds each time more audio has been scored.
        on_recording: Called with the path of each recording and the reason why it cannot be read, or None.
        on_start: Called with the number of recordings before the first is read.
        scoring: Attributes of [`ScoringOptions`].

    Raises:
        UsageError: before the work, if the labels do not fit the audio or the model.
        ValueError: if no recording can be read.
        ImportError: for `with_psds`, if sed_scores_eval is not installed.
    """
    how = ScoringOptions(**scoring)
    if with_psds:
        check_psds()
    tagger = model if isinstance(model, AudioTagger) else AudioTagger(model)
    recordings = read_strong_labels(data, audio_root)
    names = _model_names(tagger.labels, recordings, label_map)
    wanted = _wanted(names, tagger.labels, labels, label_map)
    finding = {**(finding or {}), "labels": wanted, "label_map": label_map}
    rules = event_rules(tagger.labels, thresholds, **finding)
    references, notes = _references({each.path: each.events for each in recordings}, names, wanted)
    predictions: dict[str, Sequence[Any]] = {}
    frames: dict[str, Frames] = {}
    failed: list[Skipped] = []
    reading: dict[str, Any] = {"channel": channel} | {
        name: value for name, value in (("window_s", window_s), ("hop_s", hop_s)) if value is not None
    }
    if on_start is not None:
        on_start(len(recordings))
    results = tagger.timelines([each.path for each in recordings], on_audio=on_audio, **reading)
    for recording, result in zip(recordings, results, strict=True):
        reason = None
        if result.timeline is None:
            reason = one_line(result.error).removeprefix(f"{result.name}: ")
            failed.append(Skipped(recording.path, reason))
        else:
            predictions[recording.path] = result.timeline.events(thresholds, **finding)
            if with_psds:
                frames[recording.path] = smoothed_frames(result.timeline, rules)
        if on_recording is not None:
            on_recording(recording.path, reason)
    if not predictions:
        raise ValueError(
            f"None of {len(recordings)} recordings can be read, such as {failed[0].path}: {failed[0].reason}"
        )
    references = {path: references[path] for path in predictions}
    scores = score_events(references, predictions, labels=wanted, **_fields(how))
    found = psds(frames, references, [rule.choice.label for rule in rules]) if with_psds else None
    return EventEvaluation(scores, found, wanted, len(predictions), failed, notes + _note_empty(scores, how))


def compare_events(
    results: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    labels: Sequence[str] | str | None = None,
    **scoring: Any,
) -> EventEvaluation:
    """
    Compares events in a file with strong labels. No audio is read.

    Args:
        results: A file of events, from `ced tag --events`, `ced tag --format dcase`, or another program, in one of the
            formats of [`read_strong_labels`]. Recordings are matched by name, or by the end of their paths.
        data: Strong labels.
        labels: The classes to compare; by default those of the labels.
        scoring: Attributes of [`ScoringOptions`].

    Raises:
        UsageError: if a file has an invalid line, or none of its recordings has labels.
    """
    how = ScoringOptions(**scoring)
    wanted_by_name, found = read_event_file(data), read_event_file(results, is_reference=False)
    spelled: dict[str, str] = {}  # the first spelling of each class, labels before results
    names: dict[str, str] = {}
    for event in (event for each in (wanted_by_name, found) for events in each.values() for event in events):
        name = NAME_OF_MID.get(event.label, str(event.label))
        names[str(event.label)] = spelled.setdefault(fold(name), name)
    if labels is None:
        wanted = sorted({names[str(event.label)] for events in wanted_by_name.values() for event in events})
    else:
        try:
            wanted = [choice.label for choice in choose_classes(list(spelled.values()), labels)]
        except OptionError as error:
            raise OptionError("labels", error.value, "classes of the labels or the results") from error
    references, notes = _references(wanted_by_name, names, wanted)
    files = match_files(list(wanted_by_name), list(found))
    if not files:
        first, other = next(iter(wanted_by_name)), next(iter(found), None)
        hint = f"such as {printable(first)}, while it has {printable(other)}" if other else "which is empty"
        raise UsageError(f"{printable(results)} has none of the {len(wanted_by_name)} recordings of the labels, {hint}")
    predictions = {name: _renamed(found[file], names) for name, file in files.items()}
    notes += _note_unmatched(wanted_by_name, found, files, predictions, wanted)
    scores = score_events(references, predictions, labels=wanted, **_fields(how))
    return EventEvaluation(scores, None, wanted, len(wanted_by_name), [], notes + _note_empty(scores, how))


def match_files(names: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """
    Finds the file for each of `names`: the same path, or the only one that ends with the name, or that the name ends
    with.

    Raises:
        UsageError: if there are several.
    """
    by_base: dict[str, list[str]] = {}
    for file in files:
        by_base.setdefault(PurePath(file).name, []).append(file)
    matched: dict[str, str] = {}
    for name in names:
        parts = PurePath(name).parts
        candidates = by_base.get(PurePath(name).name, [])
        same = [file for file in candidates if PurePath(file) == PurePath(name)]
        ends = same or [file for file in candidates if _is_end(PurePath(file).parts, parts)]
        if len(ends) > 1:
            shown = " and ".join(printable(file) for file in ends[:2])
            raise UsageError(f"{printable(name)} of the labels may be {shown}: give longer paths")
        if ends:
            matched[name] = ends[0]
    return matched


def _is_end(parts: tuple[str, ...], others: tuple[str, ...]) -> bool:
    short, long = sorted((parts, others), key=len)
    return long[len(long) - len(short) :] == short


def _fields(how: ScoringOptions) -> dict[str, Any]:
    return {name: getattr(how, name) for name in ScoringOptions.__dataclass_fields__}


def _model_names(
    model_labels: Sequence[str], recordings: Sequence[Recording], label_map: Mapping[str, str | None] | None
) -> dict[str, str]:
    """The class or group of the model for each label; a UsageError has the line of a label without one."""
    names: dict[str, str] = {}
    for recording in recordings:
        for event in recording.events:
            if event.label not in names:
                chosen = choose_classes(model_labels, [event.label], label_map=label_map)
                if len(chosen) != 1:
                    raise unknown_class(model_labels, event.label, "labels")
                names[str(event.label)] = chosen[0].label
    return names


def _wanted(
    names: Mapping[str, str], model_labels: Sequence[str], labels: Any, label_map: Mapping[str, str | None] | None
) -> list[str]:
    if labels is None:
        return sorted(set(names.values()))
    return [choice.label for choice in choose_classes(model_labels, labels, label_map=label_map)]


def _renamed(events: Sequence[StrongEvent], names: Mapping[str, str]) -> list[StrongEvent]:
    return [event._replace(label=FileText.at(names[str(event.label)], event.label.place)) for event in events]


def _references(
    events: Mapping[str, Sequence[StrongEvent]], names: Mapping[str, str], wanted: Sequence[str]
) -> tuple[dict[str, list[StrongEvent]], list[str]]:
    """The references of the classes to compare, and a note on others."""
    renamed = {file: _renamed(each, names) for file, each in events.items()}
    kept = {file: [event for event in each if event.label in wanted] for file, each in renamed.items()}
    if not any(kept.values()):
        raise OptionError("labels", ", ".join(wanted), "classes of the labels")
    left = sum(map(len, renamed.values())) - sum(map(len, kept.values()))
    return kept, [f"{left} events of other classes in the labels are left out"] if left else []


def _note_unmatched(
    references: Mapping[str, Any],
    found: Mapping[str, Any],
    files: Mapping[str, str],
    predictions: Mapping[str, Sequence[StrongEvent]],
    wanted: Sequence[str],
) -> list[str]:
    notes = []
    if missing := [name for name in references if name not in files]:
        example = printable(escape_name(missing[0]))
        notes.append(
            f"no results for {len(missing)} of {len(references)} recordings, such as {example}: no events there"
        )
    if more := [file for file in found if file not in files.values()]:
        example = printable(escape_name(more[0]))
        notes.append(f"{len(more)} recordings of the results have no labels, such as {example}: they are left out")
    others = [event.label for events in predictions.values() for event in events if event.label not in wanted]
    if others:
        notes.append(
            f"{len(others)} results of classes that the labels lack, such as {printable(others[0])!r}, are left out"
        )
    return notes


def _note_empty(scores: EventScores, how: ScoringOptions) -> list[str]:
    empty = [label for label, counts in scores.event_based.counts.items() if not counts.predictions]
    if not empty or how.empty_system_output_handling is not None:
        return []
    shown = ", ".join(repr(printable(label)) for label in empty[:3]) + (", …" if len(empty) > 3 else "")
    return [f"no events of {shown}: precision and F1 are not defined, and left out of macro means"]
