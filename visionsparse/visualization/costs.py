"""Accuracy against cost: a point a model, its area in proportion to the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from visionsparse.errors import InputError
from visionsparse.visualization.figure import BLUE, new_figure, save_figure


class Point(NamedTuple):
    """A model: multiply-adds in billions, parameters, top-1 in percent."""

    name: str
    gmacs: float
    parameters: int
    top1: float


def draw_costs(points: Sequence[Point], path: str | Path) -> Path:
    """Draws top-1 over GMACs and returns the picture's path.

    Raises:
        InputError: no points, or a place that can't be written.
    """
    if not points:
        raise InputError(f"{path}: no model has an accuracy to draw. Give some, such as --top1 resnet50=80.1.")
    figure = new_figure(7, 5)
    panel = figure.subplots()
    panel.scatter(
        [point.gmacs for point in points],
        [point.top1 for point in points],
        s=[12 * point.parameters / 1e6 for point in points],
        color=BLUE,
        alpha=0.6,
    )
    for point in points:
        label = f"{point.name}\n{point.parameters / 1e6:.1f} M"
        panel.annotate(label, (point.gmacs, point.top1), xytext=(8, -4), textcoords="offset points", fontsize=8)
    panel.margins(0.25)
    panel.set(xlabel="GMACs an image", ylabel="top-1 (%), as published or given")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)
