# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Learns classes from a few examples: logistic regressions on the inputs of the head's linear layer become rows of that
layer. Requires scikit-learn (extra `[learn]`), but not torch.
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
FOLDS = 5  # of the cross-validation for calibration
FEW = 5  # classes with fewer examples are reported as uncertain
MIN_SLOPE = 0.1  # of the calibration, which must not reverse scores


class ClassReport(NamedTuple):
    """
    Report on a learned class.

    Attributes:
        label: Its name.
        examples: Number of examples that were used.
        found: Number of examples with a score of at least 0.5 in cross-validation; None if there are too few.
        false: Number of other clips with such a score.
    """

    label: str
    examples: int
    found: int | None
    false: int | None


@dataclass(frozen=True)
class LearnedClasses:
    """
    The result of [`learn_classes`].

    Attributes:
        folder: Folder of the new model.
        base: The original model.
        labels: All classes of the new model.
        reports: The learned classes.
        negatives: Number of counter-examples that were used.
        skipped: Clips that were left out, with the reason.
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
        examples: A folder with one subfolder of clips per class.
        output_dir: The folder to write. It is written atomically at the end.
        model: As for [`AudioTagger`], or a tagger of a model folder.
        negatives: Folders or files of counter-examples: sounds that belong to none of the classes.
        replace: Leave out the classes of the model.
        window_s: Learn from windows of this length in seconds, each of which counts as an example. By default a clip is
            one window, and longer clips are split into windows of 10 s.
        overwrite: Replace an existing model in `output_dir`.
        say: Called with lines on clips that are left out and classes with few examples.
        on_audio: Called with the number of seconds each time more audio has been embedded.
        on_clip: Called with the path of each clip and the reason why it cannot be read, or None.
        tagger_options: `engine`, `device`, `num_threads`, … as for [`AudioTagger`].

    Returns:
        The [`LearnedClasses`]. Scores are calibrated with cross-validation: at 0.5, a clip like the examples and
        counter-examples is as likely to belong to the class as not.

    Raises:
        ValueError: for invalid folders, class names, or models.
        RuntimeError: if no example of a class can be read.
        OSError: if there is no such model, or a file cannot be written.
        ImportError: if scikit-learn is not installed.
    """
    target = Path(output_dir).absolute()
    check_output(target, overwrite)
    check_installed()
    found = find_examples(examples, negatives)
    tagger = model if isinstance(model, AudioTagger) else AudioTagger(model, **tagger_options)
    check_model(tagger, found.labels, replace)
    skipped = list(found.skipped)
    features, clips, targets = _features(tagger, found, window_s, skipped, on_audio, on_clip)
    for path, reason in skipped:
        say(f"{path}: {reason}; left out")
    _check_left(found, targets)
    if few := _few(found.labels, targets.sum(axis=0)):
        say(few)
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
    """Raises an error unless classes with these names can be learned with this model."""
    folder = tagger._folder
    if folder.path is None:
        raise OptionError("model", tagger.name, "a model folder: save this model first")
    if folder.settings.pooling == "dm":  # its head is applied to time steps, not to the pooled embedding
        raise OptionError("model", tagger.name, "a model with pooling mean, logit or token; this one has dm")
    if not replace and folder.settings.problem_type != MULTI_LABEL:
        kind = f"a multi-label model; to this {folder.settings.problem_type} model no classes can be added"
        raise OptionError("model", tagger.name, f"{kind}, only replaced")
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
    The features of all windows, `(windows, embed_dim)`, the clip index of each window, and the targets of the clips.

    A long counter-example is split into several clips, so that cross-validation can leave out parts of it.
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
    """Raises a `RunError` if no examples or counter-examples remain without the broken clips."""
    counts = targets.sum(axis=0)
    lost = [label for label, count in zip(found.labels, counts, strict=True) if not count]
    if lost:
        raise RunError(f"no example could be read of {', '.join(map(repr, lost))}")
    for label, count in zip(found.labels, counts, strict=True):
        if count == len(targets):
            raise RunError(f"every clip that could be read is an example of {label!r}: give counter-examples")


class Fitted(NamedTuple):
    """
    Logistic regressions, one per class.

    Attributes:
        weight: float32 of shape `(classes, embed_dim)`.
        bias: float32 of shape `(classes,)`.
        left_out: Probabilities of the clips in cross-validation, `(clips, classes)`; NaN if a class has too few
            examples.
    """

    weight: np.ndarray
    bias: np.ndarray
    left_out: np.ndarray


def fit_classes(features: np.ndarray, targets: np.ndarray, clips: np.ndarray) -> Fitted:
    """
    Fits one logistic regression per class against all other clips, with calibrated scores.

    Args:
        features: Inputs of the head's linear layer, `(windows, embed_dim)`.
        targets: Whether each window is an example of each class, bool of shape `(windows, classes)`.
        clips: Clip index of each window, from 0: windows of a clip are in the same fold.

    A regression on few points in many dimensions is overconfident, depending on the number of examples. Its decision
    values in cross-validation are therefore calibrated by Platt scaling, with the same slope and offset for all
    classes, so that their scores are comparable. Both are linear, so the result is again a row of the head. If no class
    has two examples, classes are weighted equally instead.
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
    """Decision values `(windows, classes)` from fits without the clip; NaN for classes with one example."""
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
    """Slope and offset of the sigmoid that fits the values best, with the smoothed targets of Platt (1999)."""
    from sklearn.linear_model import LogisticRegression

    known = np.isfinite(values)
    points, wanted = values[known][:, None], targets[known]
    positives, others = wanted.sum(), (~wanted).sum()
    smoothed = np.where(wanted, (positives + 1) / (positives + 2), 1 / (others + 2))
    # Soft targets: each point counts as positive and negative, with these weights.
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
        "| class | examples | found at 0.5 in cross-validation | others at 0.5 |",
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
