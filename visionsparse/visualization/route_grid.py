"""Routed regions of chosen points over one image: a row per routed block, a column per point, as papers show them.

The query's region is blue; the regions that it reads are orange, the strongest choice numbered 1 and least transparent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visionsparse.errors import InputError
from visionsparse.visualization.figure import BLUE, ORANGE, new_figure, save_figure
from visionsparse.visualization.routes import RoutedBlock, draw_box, region_at, region_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = 2.3  # inches along the longer side
_ROOM_FOR_A_NUMBER = 0.2  # inches
_WEAKEST, _STRONGEST = 0.25, 0.75  # opacity by rank


def draw_route_grid(
    image: np.ndarray,
    blocks: Sequence[RoutedBlock],
    points: Sequence[tuple[float, float]],
    path: str | Path,
    *,
    point_names: Sequence[str] | None = None,
    title: str = "",
) -> Path:
    """Draws the regions that each point's region reads in each block. Returns the picture's path.

    Where regions hang over the map's edge, the padding that they cover is drawn beside the image, hatched.

    Args:
        image: (height, width, 3) uint8, what the net reads.
        blocks: routed blocks for that image alone, as `routed_regions` gives them.
        points: (x, y) in pixels of `image`, from its upper left corner.
        path: where the picture goes; its suffix says the format.
        point_names: what is written above each column; the points themselves if not given.
        title: of the whole picture.

    Raises:
        InputError: no block, no point, or a point outside the image.
    """
    height, width = image.shape[:2]
    if not blocks or not points:
        raise InputError(f"{len(blocks)} routed blocks and {len(points)} points: expected at least one of each.")
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"point ({x:g}, {y:g}) is outside the image of {width} x {height} pixels (x, y).")
    names = point_names or [f"({x:g}, {y:g})" for x, y in points]
    corners = [region_box(block, block.routing.grid[0] * block.routing.grid[1] - 1)[2:] for block in blocks]
    extent = (max(width, *(right for right, _ in corners)), max(height, *(bottom for _, bottom in corners)))
    across, down = (_PANEL * side / max(extent) for side in extent)

    figure = new_figure(max((across + 0.15) * len(points) + 1.2, 4.0), (down + 0.1) * (len(blocks) + 1) + 1.0)
    panels = figure.subplots(len(blocks) + 1, len(points), squeeze=False)
    for column, (point, name) in enumerate(zip(points, names, strict=True)):
        _show(panels[0, column], image, extent)
        panels[0, column].plot(*point, marker="o", markersize=7, color=BLUE, markeredgecolor="white")
        panels[0, column].set_title(name, fontsize=9)
        for panel, block in zip(panels[1:, column], blocks, strict=True):
            _show(panel, image.mean(axis=2), extent)  # grey, so that the colours on it are the drawing's
            _draw_block(panel, block, point, _PANEL / max(extent))
    panels[0, 0].set_ylabel("the net\nsees", **_ROW_NAME)
    for panel, block in zip(panels[1:, 0], blocks, strict=True):
        rows, columns = block.routing.grid
        reads = f"{block.routing.routes.shape[-1]} of {rows * columns}"
        panel.set_ylabel(f"stage {block.stage + 1}\nblock {block.block + 1}\nreads\n{reads}", **_ROW_NAME)
    has_choice = any(block.routing.routes.shape[-1] > 1 for block in blocks)
    _add_legend(figure, has_choice=has_choice, has_padding=extent != (width, height))
    if title:
        figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


_PADDING: dict[str, Any] = dict(facecolor="0.93", edgecolor="0.7", linewidth=0, hatch="////")
_GRID: dict[str, Any] = dict(color="white", linewidth=0.5, alpha=0.8)
_ROW_NAME: dict[str, Any] = dict(rotation=0, ha="right", va="center", fontsize=9, labelpad=8)


def _show(panel: Axes, image: np.ndarray, extent: tuple[float, float]) -> None:
    height, width = image.shape[:2]
    if extent != (width, height):
        draw_box(panel, (0, 0, *extent), **_PADDING, zorder=-1)
    smooth = "nearest" if height <= 64 else "antialiased"
    panel.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), interpolation=smooth)
    panel.set(xlim=(0, extent[0]), ylim=(extent[1], 0), xticks=[], yticks=[])


def _draw_block(panel: Axes, block: RoutedBlock, point: tuple[float, float], inches_per_pixel: float) -> None:
    from matplotlib.patheffects import withStroke

    rows, columns = block.routing.grid
    _, _, right, bottom = region_box(block, rows * columns - 1)
    step_x, step_y = right / columns, bottom / rows
    panel.vlines([step_x * column for column in range(1, columns)], 0, bottom, **_GRID)
    panel.hlines([step_y * row for row in range(1, rows)], 0, right, **_GRID)
    query = region_at(block, point)
    routed = [int(region) for region in block.routing.routes[0, query]]
    is_numbered = len(routed) > 1 and min(step_x, step_y) * inches_per_pixel > _ROOM_FOR_A_NUMBER
    for rank, opacity in enumerate(np.linspace(_STRONGEST, _WEAKEST, len(routed))):
        box = region_box(block, routed[rank])
        draw_box(panel, box, facecolor=ORANGE, alpha=opacity)
        draw_box(panel, box, fill=False, edgecolor=ORANGE, linewidth=1.2)
        if is_numbered:
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            text = panel.text(*centre, str(rank + 1), ha="center", va="center_baseline", fontsize=7)
            text.set_path_effects([withStroke(linewidth=1.5, foreground="white", alpha=0.7)])
    draw_box(panel, region_box(block, query), fill=False, edgecolor=BLUE, linewidth=2.2)
    panel.plot(*point, marker="o", markersize=4, color=BLUE, markeredgecolor="white", markeredgewidth=0.7)


def _add_legend(figure: Figure, *, has_choice: bool, has_padding: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], linestyle="", marker="o", color=BLUE, markeredgecolor="white", label="query point"),
        Patch(fill=False, edgecolor=BLUE, linewidth=2.2, label="its region"),
        Patch(
            facecolor=ORANGE, edgecolor=ORANGE, alpha=_STRONGEST, label="read, first choice" if has_choice else "read"
        ),
    ]
    if has_choice:
        handles.append(Patch(facecolor=ORANGE, edgecolor=ORANGE, alpha=_WEAKEST, label="read, last choice"))
    if has_padding:
        handles.append(Patch(**_PADDING, label="padding"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
