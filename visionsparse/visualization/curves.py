"""Training curves: loss, learning rate and validation accuracy of a work folder, as one picture.

They are read from the lines that mmengine's LocalVisBackend writes, `<work_dir>/<timestamp>/vis_data/scalars.json`, one
JSON object a line. A resumed run has several such files; a later one replaces what it did again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsparse.errors import InputError
from visionsparse.visualization.figure import BLUE, GREEN, GREY, ORANGE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]


def draw_curves(work_dir: str | Path, path: str | Path | None = None) -> Path:
    """Draws the curves of a training run and returns the picture's path (default `<work_dir>/curves.png`).

    Raises:
        InputError: the folder is missing, or no training has written its numbers there.
    """
    training, validation = read_scalars(work_dir)
    batches = _batches_per_epoch(training)
    unit = "epoch" if batches else "iteration"
    positions = [record["step"] / (batches or 1) for record in training]

    figure = new_figure(9, 6.5 if validation else 5)
    panels = figure.subplots(3 if validation else 2, 1, sharex=True, height_ratios=[2, 2, 1] if validation else [2, 1])
    loss_panel, rate_panel = panels[0], panels[-1]
    _draw_loss(loss_panel, positions, training)
    if validation:
        _draw_accuracy(panels[1], validation)
    rate_panel.plot(positions, [record.get("lr", math.nan) for record in training], color=GREY)
    rate_panel.set(ylabel="learning rate", xlabel=unit)
    rate_panel.xaxis.get_major_locator().set_params(integer=True)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(Path(work_dir).resolve().name)
    return save_figure(figure, path or Path(work_dir) / "curves.png")


def read_scalars(work_dir: str | Path) -> tuple[list[Record], list[Record]]:
    """The training and the validation records of a work folder, each in order of `step`.

    A later file (timestamps sort) replaces the earlier ones from its own first step on: that is what a resumed run
    repeated, or a run that started afresh in the same folder.

    Raises:
        InputError: no such folder, or no record in it.
    """
    folder = Path(work_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the work folder of a training run, such as work_dirs/NAME.")
    training: list[Record] = []
    validation: list[Record] = []
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        records = _read_lines(file)
        training = _followed_by(training, [record for record in records if "loss" in record])
        validation = _followed_by(validation, [record for record in records if "loss" not in record])
    if not training:
        raise InputError(
            f"{folder}: no training numbers in it (looked for */vis_data/scalars.json). Train into it first."
        )
    return training, validation


def _read_lines(file: Path) -> list[Record]:
    records = []
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed run is cut off
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def _followed_by(earlier: list[Record], later: list[Record]) -> list[Record]:
    if not later:
        return earlier
    start = min(record["step"] for record in later)
    kept = {record["step"]: record for record in earlier if record["step"] < start}
    return sorted({**kept, **{record["step"]: record for record in later}}.values(), key=lambda record: record["step"])


def _batches_per_epoch(training: Sequence[Record]) -> int | None:
    """The least whole number that every (epoch, iteration) pair agrees with; None where epochs are not counted.

    Validation is recorded by epoch, training by iteration: this brings both on one axis.
    """
    if any("epoch" not in record for record in training):
        return None
    return max(math.ceil(record["step"] / max(record["epoch"], 1)) for record in training)


def _draw_loss(panel: Axes, positions: Sequence[float], training: Sequence[Record]) -> None:
    panel.plot(positions, [record["loss"] for record in training], color=BLUE)
    panel.set(ylabel="training loss")


def _draw_accuracy(panel: Axes, validation: Sequence[Record]) -> None:
    for name, colour in (("top1", GREEN), ("top5", ORANGE)):
        points = [
            (record["step"], value) for record in validation for value in [_named(record, name)] if value is not None
        ]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        best = max(range(len(values)), key=values.__getitem__)
        panel.plot(
            steps,
            values,
            color=colour,
            marker="o" if len(values) < 40 else None,
            markersize=3,
            label=f"{name}: best {values[best]:.2f} %, last {values[-1]:.2f} %",
        )
    panel.set(ylabel="validation accuracy (%)")
    panel.legend(loc="lower right")


def _named(record: Record, name: str) -> float | None:
    """A metric by name, with or without the prefix that an evaluator may put before it (`accuracy/top1`)."""
    return next((value for key, value in record.items() if key.rsplit("/", 1)[-1] == name), None)
