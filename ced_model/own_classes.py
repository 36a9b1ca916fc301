# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Classes of one's own from a few examples: a logistic regression on what the head's linear layer is given, which becomes
rows of that layer. Needs scikit-learn, the extra `[learn]`; torch is not needed.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .examples import Examples, check_names, find_examples
from .head_rows import BIAS, WEIGHT, head_features, write_with_head
from .messages import OptionError, RunError, one_line
from .model_files import check_output, check_replaceable
from .output import new_folder
from .packages import require
from .tagger import AudioTagger

logger = logging.getLogger(__name__)

MULTI_LABEL = "multi_label_classification"
FOLDS = 5  # of the cross-validation that calibrates
FEW = 5  # examples, below which a class is named as uncertain
MIN_SLOPE = 0.1  # of the calibration: scores must not be turned round


class ClassReport(NamedTuple):
    """
    What is known of a class that was learned.

    Attributes:
        label: Its name.
        examples: Clips of it that were used.
        found: How many of them reach 0.5 when they are left out of the fit (cross-validation); None where there are too
            few for it.
        false: How many of the other clips do.
    """

    label: str
    examples: int
    found: int | None
    false: int | None


@dataclass(frozen=True)
class LearnedClasses:
    """
    A model folder that was written.

    Attributes:
        folder: The model.
        base: The model that it was made of.
        labels: All its classes.
        reports: The classes that were learned.
        negatives: Counter-examples that were used.
        skipped: Clips that were left out, and why.
    """

    folder: Path
    base: str
    labels: list[str]
    reports: list[ClassReport]
    negatives: int
    skipped: list[tuple[str, str]] = field(repr=False)


def learn_classes(
    examples: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | AudioTagger | None = None,
    negatives: Sequence[str | os.PathLike[str]] = (),
    replace: bool = False,
    window_s: float | None = None,
    overwrite: bool = False,
    say: Callable[[str], object] = logger.info,
    on_audio: Callable[[float], object] | None = None,
    on_clip: Callable[[str, str | None], object] | None = None,
    **tagger_options: Any,
) -> LearnedClasses:
    """
    Adds classes to a model from a few examples of each, and writes it as a model folder.

    Args:
        examples: A folder with a folder of clips for each class.
        output_dir: The folder to write; it appears in one piece at the end.
        model: As for [`AudioTagger`], or a tagger of a model folder.
        negatives: Folders or files of counter-examples: sounds that are none of the classes.
        replace: Leave out the classes of the model.
        window_s: Learn from windows of this length in seconds; by default a clip is one window, and longer ones have
            windows of 10 s. Each window of an example counts as the class.
        overwrite: Replace the model that is in `output_dir`.
        say: Called with lines on clips that are left out and classes with few examples.
        on_audio: Called with the seconds of audio whenever some more were embedded.
        on_clip: Called with the path of each clip that was read, and why it cannot be read, or None.
        tagger_options: `engine`, `device`, `num_threads`, … as for [`AudioTagger`].

    Returns:
        The [`LearnedClasses`]. Scores of each class are calibrated on left-out examples: 0.5 is where a clip is as
        likely of the class as not, among clips such as the examples and counter-examples.

    Raises:
        ValueError: in one line, if the folders, the names of the classes, or the model do not fit.
        OSError: if there is no such model, or something cannot be written.
        ImportError: if scikit-learn is not installed.
    """
    target = Path(output_dir).absolute()
    check_output(target, overwrite)
    check_installed()
    found = find_examples(examples, negatives)
    tagger = model if isinstance(model, AudioTagger) else AudioTagger(model, **tagger_options)
    check_model(tagger, found.labels, replace)
    few = _few(found.labels, found.targets().sum(axis=0))
    if few:
        say(few)
    skipped = list(found.skipped)
    features, clips, targets = _features(tagger, found, window_s, skipped, on_audio, on_clip)
    for path, reason in skipped:
        say(f"{path}: {reason}; left out")
    _check_left(found, targets)
    if (left := _few(found.labels, targets.sum(axis=0))) != few:
        say(left)
    fitted = fit_classes(features, targets[clips], clips)
    reports = [_report(label, targets[:, i], fitted.left_out[:, i]) for i, label in enumerate(found.labels)]
    negatives_used = int((~targets.any(axis=1)).sum())
    labels = [*([] if replace else tagger.labels), *found.labels]
    weight, bias = fitted.weight, fitted.bias
    source = tagger._folder
    if not replace:
        weight = np.concatenate([source.tensors[WEIGHT].read(), weight])
        bias = np.concatenate([source.tensors[BIAS].read(), bias])
    card = _card(target.name, tagger, reports, negatives_used, replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(target, check_replaceable if overwrite else None) as folder:
        write_with_head(source, folder, weight, bias, labels, MULTI_LABEL, card)
    return LearnedClasses(target, tagger.name, labels, reports, negatives_used, skipped)


def check_installed() -> None:
    """Raises a `MissingPackageError` without scikit-learn."""
    require(("sklearn",), "learning classes")


def check_model(tagger: AudioTagger, labels: Sequence[str], replace: bool) -> None:
    """Raises an error unless classes `labels` can be learned on this model."""
    folder = tagger._folder
    if folder.path is None:
        raise OptionError("model", tagger.name, "a model folder: save this model first")
    if folder.settings.pooling == "dm":  # its head is given each step in time, not the pooled embedding
        raise OptionError("model", tagger.name, "a model with pooling mean, logit or token; this one has dm")
    if not replace and folder.settings.problem_type != MULTI_LABEL:
        kind = f"a multi-label model, to which classes can be added; this one is for {folder.settings.problem_type}"
        raise OptionError("model", tagger.name, f"{kind}: replace its classes")
    check_names(labels, () if replace else tagger.labels)


def _features(
    tagger: AudioTagger,
    found: Examples,
    window_s: float | None,
    skipped: list[tuple[str, str]],
    on_audio: Callable[[float], object] | None,
    on_clip: Callable[[str, str | None], object] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The features of all windows, `(windows, embed_dim)`, the number of the clip of each, and the targets of the clips.

    A long counter-example is cut into several clips, some of which can be left out of a fit.
    """
    rows, owners = [np.zeros((0, tagger.embed_dim), np.float32)], [np.zeros(0, int)]
    kept: list[int] = []
    for index, result in enumerate(tagger.embeddings(found.paths, window_s=window_s, on_audio=on_audio)):
        reason = None if result.error is None else one_line(result.error).removeprefix(f"{result.name}: ")
        if on_clip is not None:
            on_clip(found.paths[index], reason)
        if reason is not None:
            skipped.append((result.name, reason))
            continue
        windows = len(result.embeddings)
        parts = 1 if found.classes[index] else min(FOLDS, windows)
        rows.append(result.embeddings)
        owners.append(len(kept) + np.arange(windows) * parts // windows)
        kept += [index] * parts
    return head_features(tagger._folder, np.concatenate(rows)), np.concatenate(owners), found.targets()[kept]


def _few(labels: Sequence[str], counts: Iterable[int]) -> str:
    """A line on classes with few examples, if there are any."""
    few = [f"{label} ({count})" for label, count in zip(labels, counts, strict=True) if count < FEW]
    return f"few examples of {', '.join(few)}: scores of a class are uncertain below {FEW}" if few else ""


def _check_left(found: Examples, targets: np.ndarray) -> None:
    """Raises a `RunError` if examples or counter-examples are lacking after broken clips were left out."""
    counts = targets.sum(axis=0)
    lost = [label for label, count in zip(found.labels, counts, strict=True) if not count]
    if lost:
        raise RunError(f"no example could be read of {', '.join(map(repr, lost))}")
    for label, count in zip(found.labels, counts, strict=True):
        if count == len(targets):
            raise RunError(f"every clip that could be read is an example of {label!r}: give counter-examples")


class Fitted(NamedTuple):
    """
    Attributes:
        weight: float32 of shape `(classes, embed_dim)`.
        bias: float32 of shape `(classes,)`.
        left_out: Probabilities of each clip when it was left out of the fit, `(clips, classes)`; NaN where a class has
            too few examples.
    """

    weight: np.ndarray
    bias: np.ndarray
    left_out: np.ndarray


def fit_classes(features: np.ndarray, targets: np.ndarray, clips: np.ndarray) -> Fitted:
    """
    One logistic regression for each class against all other clips, with calibrated scores.

    Args:
        features: What the head's linear layer is given, `(windows, embed_dim)`.
        targets: Whether each window is an example of each class, bool of shape `(windows, classes)`.
        clips: The clip of each window, numbered from 0: windows of one clip are left out together.

    A regression fitted to few points in many dimensions is far too sure of itself, and how much depends on the number
    of examples. So its decision values for clips that were left out (cross-validation) are calibrated by a sigmoid as
    Platt has it, with one slope and offset for all classes, which makes them comparable; and as both are linear, the
    result is again a row of the head. Where no class has two examples, classes are weighted evenly instead.
    """
    from sklearn.linear_model import LogisticRegression

    held_out = _left_out_values(features, targets, clips)
    is_calibrated = bool(np.isfinite(held_out).any())
    slope, offset = _platt(held_out, targets) if is_calibrated else (1.0, 0.0)
    rows, biases = [], []
    for column in range(targets.shape[1]):
        regression = LogisticRegression(class_weight=None if is_calibrated else "balanced", max_iter=1000)
        regression.fit(features, targets[:, column])
        rows.append(slope * regression.coef_[0])
        biases.append(slope * regression.intercept_[0] + offset)
    sums = np.zeros((clips.max() + 1, targets.shape[1]))
    np.add.at(sums, clips, 1 / (1 + np.exp(-(slope * held_out + offset))))
    return Fitted(np.array(rows, np.float32), np.array(biases, np.float32), sums / np.bincount(clips)[:, None])


def _left_out_values(features: np.ndarray, targets: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """Decision values of each window for each class, from fits without its clip; NaN for classes with one example."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    values = np.full(targets.shape, np.nan)
    for column in range(targets.shape[1]):
        wanted = targets[:, column]
        folds = min(FOLDS, len(np.unique(clips[wanted])), len(np.unique(clips[~wanted])))
        if folds < 2:
            continue
        for kept, left in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(features, wanted, clips):
            if len(np.unique(wanted[kept])) == 2:
                regression = LogisticRegression(max_iter=1000).fit(features[kept], wanted[kept])
                values[left, column] = regression.decision_function(features[left])
    return values


def _platt(values: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the sigmoid that fits left-out values best, with the smoothed targets of Platt (1999)."""
    from sklearn.linear_model import LogisticRegression

    known = np.isfinite(values)
    points, wanted = values[known][:, None], targets[known]
    positives, others = wanted.sum(), (~wanted).sum()
    smoothed = np.where(wanted, (positives + 1) / (positives + 2), 1 / (others + 2))
    # Soft targets: each point counts as both, in these shares.
    regression = LogisticRegression(C=np.inf).fit(
        np.concatenate([points, points]),
        np.repeat([True, False], len(points)),
        np.concatenate([smoothed, 1 - smoothed]),
    )
    slope, offset = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    return max(slope, MIN_SLOPE), offset


def _report(label: str, wanted: np.ndarray, scores: np.ndarray) -> ClassReport:
    if np.isnan(scores).any():
        return ClassReport(label, int(wanted.sum()), None, None)
    found, false = (int((scores[which] >= 0.5).sum()) for which in (wanted, ~wanted))
    return ClassReport(label, int(wanted.sum()), found, false)


def _card(name: str, tagger: AudioTagger, reports: Iterable[ClassReport], negatives: int, replace: bool) -> str:
    """The README.md of the folder."""
    reports = list(reports)
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: audio-classification",
        "tags: [ced, audio, audio-tagging]",
        "---",
        "",
        f"# {name}",
        "",
        f"The CED model `{tagger.name}` "
        + ("with classes learned from examples in place of its own." if replace else "with classes added to its own."),
        "Each class is a logistic regression on the pooled embeddings, calibrated on examples that were left out of the"
        f" fit (cross-validation), against the other classes' examples and {negatives} counter-examples.",
        "",
        "| class | examples | of which left out and found at 0.5 | others at 0.5 |",
        "| --- | --- | --- | --- |",
        *(
            f"| {report.label.replace('|', '¦')} | {report.examples} | {_or_dash(report.found)} |"
            f" {_or_dash(report.false)} |"
            for report in reports
        ),
        "",
        "```python",
        "from ced_model import AudioTagger",
        "",
        f"tagger = AudioTagger({name!r})",
        'tags = tagger("recording.wav")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _or_dash(count: int | None) -> str:
    return "–" if count is None else str(count)
