"""The confusion matrix as a picture: every count where there is room, else the shape and the worst pairs by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visionsparse.errors import InputError
from visionsparse.visualization.figure import GREY, new_figure, save_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

_MOST_NAMED = 40  # classes whose names, and whose counts, can still be read
_MOST_CELLS = 500  # of a side: a cell less than a screen dot wide is lost
_PAIRS = 20


def draw_confusion_matrix(matrix: ArrayLike, class_names: Sequence[str], path: str | Path) -> Path:
    """Draws a confusion matrix and returns the picture's path.

    Args:
        matrix: (classes, classes) counts; row = true class, column = predicted class.
        class_names: one per class.
        path: where the picture goes; its suffix says the format.

    Raises:
        InputError: the matrix is not square, or has another number of classes than `class_names`.
    """
    counts = np.asarray(matrix)
    if counts.shape != (len(class_names), len(class_names)):
        raise InputError(
            f"matrix has shape {counts.shape} but there are {len(class_names)} class names: give one per class."
        )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    accuracy = 100 * np.trace(counts) / max(counts.sum(), 1)
    if len(class_names) <= _MOST_NAMED:
        side = max(5.0, 2 + 0.38 * len(class_names))
        figure = new_figure(side + 1, side)
        panel = figure.subplots()
        _draw_named(panel, counts, shares, class_names)
    else:
        figure = new_figure(14.5, 7.5)
        panel, listing = figure.subplots(1, 2, width_ratios=[5, 2])
        _draw_cells(panel, shares)
        _list_worst_pairs(listing, counts, shares, class_names)
    panel.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(
        panel.images[0], ax=panel, label="share of the true class", shrink=0.8, ticks=[0, 0.05, 0.25, 0.5, 1]
    )
    figure.suptitle(f"{counts.sum():,} images, {accuracy:.2f} % right")
    return save_figure(figure, path)


def _draw_cells(panel: Axes, shares: np.ndarray) -> None:
    from matplotlib.colors import PowerNorm

    side = len(shares)
    pooled = -(-side // _MOST_CELLS)
    if pooled > 1:  # the largest of each square: a mean would hide a lone confusion
        padding = -side % pooled
        padded = np.pad(shares, (0, padding))
        shares = padded.reshape(len(padded) // pooled, pooled, -1, pooled).max(axis=(1, 3))
    # A root scale: one image in fifty must be seen beside a diagonal near 1.
    panel.imshow(
        shares,
        cmap="Blues",
        norm=PowerNorm(0.5, 0, 1),
        extent=(-0.5, side - 0.5, side - 0.5, -0.5),
        interpolation="nearest",
    )


def _draw_named(panel: Axes, counts: np.ndarray, shares: np.ndarray, class_names: Sequence[str]) -> None:
    _draw_cells(panel, shares)
    places = range(len(class_names))
    turned = 90 if max(map(len, class_names)) > 3 else 0
    panel.set_xticks(places, class_names, rotation=turned)
    panel.set_yticks(places, class_names)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.3 else "black"
        panel.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=8)


def _list_worst_pairs(panel: Axes, counts: np.ndarray, shares: np.ndarray, class_names: Sequence[str]) -> None:
    """The pairs that are mixed up most, as bars with their names."""
    wrong = np.where(np.eye(len(counts), dtype=bool), -1.0, shares)
    worst = np.argsort(wrong, axis=None, kind="stable")[::-1][:_PAIRS]
    pairs = [
        (row, column) for row, column in zip(*np.unravel_index(worst, wrong.shape), strict=True) if counts[row, column]
    ]
    panel.barh(range(len(pairs)), [100 * shares[pair] for pair in pairs], color=GREY)
    panel.set_yticks(
        range(len(pairs)),
        [f"{short(class_names[row], 22)} → {short(class_names[column], 22)}" for row, column in pairs],
    )
    panel.invert_yaxis()
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title("mixed up most: true → predicted", loc="right")
    panel.set_xlabel("% of the true class")
