"""Samples of a batch as a picture: each as its file holds it, and beside it the versions that a net gets to see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visionsparse.errors import InputError
from visionsparse.visualization.figure import new_figure, save_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = 1.5  # inches
_ROWS = 4  # of samples, before a second one is put beside the first
_MOST_NAMED = 3  # classes of a mixed target


def draw_samples(
    originals: Sequence[np.ndarray],
    versions: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
    path: str | Path,
    *,
    version_names: Sequence[str],
    title: str = "",
) -> Path:
    """Draws one row of pictures a sample: the original, then its versions. Returns the picture's path.

    Args:
        originals: (height, width, 3) uint8 images, of any sizes.
        versions: one (samples, height, width, 3) uint8 array a version.
        captions: per sample, what stands above the original and above each version.
        path: where the picture goes; its suffix says the format.
        version_names: one a version, written above the columns.
        title: of the whole picture.

    Raises:
        InputError: no sample, or numbers of samples or versions that differ.
    """
    numbers = {len(originals), len(captions), *map(len, versions)}
    if len(numbers) > 1 or 0 in numbers or len(version_names) != len(versions):
        raise InputError(
            f"{len(originals)} originals, {len(captions)} captions, versions of {[len(v) for v in versions]} samples "
            f"and {len(version_names)} version names: expected one number of samples, and a name a version."
        )
    columns = 1 + len(versions)
    across = -(-len(originals) // _ROWS) if len(originals) <= 2 * _ROWS else max(1, 12 // columns)  # samples in a row
    down = -(-len(originals) // across)
    figure = new_figure((_PANEL + 0.1) * columns * across + 0.25 * across, (_PANEL + 0.3) * down + 0.7)
    groups = figure.subfigures(1, across, squeeze=False, wspace=0.03)[0]
    for group, samples in zip(groups, np.array_split(np.arange(down * across), across), strict=True):
        panels = group.subplots(down, columns, squeeze=False)
        for row, sample in zip(panels, samples, strict=True):
            if sample >= len(originals):
                for panel in row:
                    panel.set_axis_off()
                continue
            for panel, image, caption in zip(
                row, [originals[sample], *(version[sample] for version in versions)], captions[sample], strict=True
            ):
                _show(panel, image, caption)
        for panel, name in zip(panels[-1], ["as in the file", *version_names], strict=True):
            panel.set_xlabel(name, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


def target_caption(target: int | np.ndarray, class_names: Sequence[str]) -> str:
    """The class's name, or of a mixed target, (classes,) shares, the largest: "70 % cat, 30 % dog"."""
    if not isinstance(target, np.ndarray):
        return short(class_names[target], 20)
    largest = np.argsort(-target, kind="stable")[:_MOST_NAMED]
    shown = [label for label in largest if target[label] >= 0.05] or list(largest[:1])
    return "\n".join(f"{100 * target[label]:.0f} % {short(class_names[label], 16)}" for label in shown)


def _show(panel: Axes, image: np.ndarray, caption: str) -> None:
    panel.imshow(image, interpolation="nearest" if image.shape[0] <= 64 else "antialiased")
    panel.set(xticks=[], yticks=[])
    panel.set_title(caption, fontsize=8)
