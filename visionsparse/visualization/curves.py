"""Training curves: loss, validation accuracy and learning rate of one run or of several, as one picture.

They are read from the lines that mmengine's LocalVisBackend writes, `<work_dir>/<timestamp>/vis_data/scalars.json`, one
JSON object a line. A resumed run has several such files; a later one replaces what it did again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsparse.errors import InputError
from visionsparse.visualization.figure import BLUE, GREEN, GREY, ORANGE, RUN_COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]


@dataclass(frozen=True)
class _Run:
    name: str
    training: list[Record]
    validation: list[Record]

    def batches_per_epoch(self) -> int | None:
        """The least whole number that every (epoch, iteration) pair agrees with; None where epochs are not counted.

        Validation is recorded by epoch, training by iteration: this brings both on one axis.
        """
        if any("epoch" not in record for record in self.training):
            return None
        return max(math.ceil(record["step"] / max(record["epoch"], 1)) for record in self.training)


def draw_curves(work_dirs: str | Path | Sequence[str | Path], path: str | Path | None = None) -> Path:
    """Draws the curves of a training run, or of several to compare, and returns the picture's path.

    Args:
        work_dirs: the work folder of a run, or a sequence of them.
        path: where the picture goes; by default `curves.png`, in the work folder of a single run and else here.

    Raises:
        InputError: a folder is missing, no training has written its numbers there, or some runs count epochs and some
            only iterations.
    """
    folders = [Path(work_dirs)] if isinstance(work_dirs, str | os.PathLike) else [Path(name) for name in work_dirs]
    if not folders:
        raise InputError("no work folder: give that of at least one training run.")
    runs = [_Run(name, *read_scalars(folder)) for name, folder in zip(_names(folders), folders, strict=True)]
    by_epoch = {run.batches_per_epoch() is not None for run in runs}
    if len(by_epoch) > 1:
        raise InputError("some of these runs count epochs and others iterations only: draw them apart.")
    has_validation = any(run.validation for run in runs)

    figure = new_figure(9, 6.5 if has_validation else 5)
    panels = figure.subplots(
        3 if has_validation else 2, 1, sharex=True, height_ratios=[2, 2, 1] if has_validation else [2, 1]
    )
    for index, run in enumerate(runs):
        colour = RUN_COLOURS[index % len(RUN_COLOURS)] if len(runs) > 1 else None
        _draw_training(panels[0], panels[-1], run, colour)
        if has_validation:
            _draw_accuracy(panels[1], run, colour)
    panels[0].set(ylabel="training loss")
    panels[-1].set(ylabel="learning rate", xlabel="epoch" if by_epoch == {True} else "iteration")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    if has_validation:
        panels[1].set(ylabel="validation accuracy (%)")
        panels[1].legend(loc="lower right", fontsize=8)
    if len(runs) > 1:
        panels[0].legend(loc="upper right", fontsize=8)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    if len(runs) == 1:
        figure.suptitle(runs[0].name)
    return save_figure(figure, path or (folders[0] if len(runs) == 1 else Path()) / "curves.png")


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with their parents' where they are the same."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


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


def _draw_training(loss_panel: Axes, rate_panel: Axes, run: _Run, colour: str | None) -> None:
    positions = [record["step"] / (run.batches_per_epoch() or 1) for record in run.training]
    loss_panel.plot(positions, [record["loss"] for record in run.training], color=colour or BLUE, label=run.name)
    rate_panel.plot(positions, [record.get("lr", math.nan) for record in run.training], color=colour or GREY)


def _draw_accuracy(panel: Axes, run: _Run, colour: str | None) -> None:
    """Top-1 and top-5 of a single run; of several runs, top-1 alone, in the run's colour."""
    for name, own_colour in (("top1", GREEN), ("top5", ORANGE)) if colour is None else (("top1", colour),):
        points = [
            (record["step"], value)
            for record in run.validation
            for value in [_named(record, name)]
            if value is not None
        ]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        best = max(range(len(values)), key=values.__getitem__)
        panel.plot(
            steps,
            values,
            color=own_colour,
            marker="o" if len(values) < 40 else None,
            markersize=3,
            label=f"{name if colour is None else run.name}: best {values[best]:.2f} %, last {values[-1]:.2f} %",
        )


def _named(record: Record, name: str) -> float | None:
    """A metric by name, with or without the prefix that an evaluator may put before it (`accuracy/top1`)."""
    return next((value for key, value in record.items() if key.rsplit("/", 1)[-1] == name), None)
