# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices of single-label clips. Plots require matplotlib (extra `[plot]`)."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERS = 30  # maximum number of classes for plots with numbers in their cells
LABEL_LENGTH = 36


class Confused(NamedTuple):
    """A class mistaken for another one: number of such clips, and their share of all clips of the class."""

    label: str
    taken_for: str
    clips: int
    share: float


def confusion_matrix(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """
    Number of clips by label and best-scored class.

    Args:
        targets: 0 or 1, of shape `(clips, classes)`, with one 1 per clip.
        scores: Of shape `(clips, classes)`; the first of equal scores is the best.

    Returns:
        Integers of shape `(classes, classes)`: the row is the label, the column the best-scored class, as in
        scikit-learn's `confusion_matrix`.
    """
    matrix = np.zeros((targets.shape[1],) * 2, int)
    np.add.at(matrix, (targets.argmax(axis=1), scores.argmax(axis=1)), 1)
    return matrix


def most_confused(matrix: np.ndarray, labels: Sequence[str], most: int = 10) -> list[Confused]:
    """The pairs of classes with the most errors, in descending order."""
    errors = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-errors, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    totals = matrix.sum(axis=1)
    return [
        Confused(labels[row], labels[column], int(errors[row, column]), float(errors[row, column] / totals[row]))
        for row, column in pairs
        if errors[row, column]
    ]


def write_matrix(file: BinaryIO, matrix: np.ndarray, labels: Sequence[str]) -> None:
    """Writes a CSV with one row per label and one column per best-scored class."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *labels])
    writer.writerows([label, *row.tolist()] for label, row in zip(labels, matrix, strict=True))
    text.detach()


def make_picture(matrix: np.ndarray, labels: Sequence[str]) -> "Figure":
    """The matrix with the share of each label's clips as colour."""
    from matplotlib.figure import Figure

    from .drawing import shortened

    number = len(labels)
    side = min(40.0, 2.5 + 0.34 * number)
    figure = Figure(figsize=(side + 2.2, side + 1.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    names = [shortened(label, LABEL_LENGTH) for label in labels]
    size = min(10.0, max(2.0, 72 * side / number / 1.4))  # one name per row, in points
    axes.set_xticks(range(number), names, rotation=90, fontsize=size)
    axes.set_yticks(range(number), names, fontsize=size)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a $ is a $
    axes.set_xlabel("best-scored class")
    axes.set_ylabel("label")
    for row, column in np.argwhere(matrix) if number <= MOST_NUMBERS else ():
        colour = "black" if shares[row, column] > 0.6 else "white"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, ax=axes, label="share of the label's clips", pad=0.01, aspect=30)
    return figure
