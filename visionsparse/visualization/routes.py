"""Predictions as a picture: each image, what the net says of it, and the regions that one query point was routed to.

A net takes part through one method, `routed_regions`; a net without it gets a picture of its predictions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from visionsparse.errors import InputError
from visionsparse.visualization.figure import BLUE, ORANGE, VERMILION, new_figure, save_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor, nn


PANELS_ACROSS = 6
QUERY = (0.45, 0.45)  # just off the centre, which is a corner of four regions where their number is even


class Routing(Protocol):
    """Which regions each region of a map attends to.

    Attributes:
        routes: (B, regions, topk) int64, best first; regions are numbered row by row.
        grid: (rows, columns) of regions; the last ones may hang over the map's right and lower edge.
        region_size: (height, width) of a region in positions of the map.
    """

    routes: Tensor
    grid: tuple[int, int]
    region_size: tuple[int, int]


class RoutedBlock(Protocol):
    """The routing of one block: `stage` and `block` count from 0, `stride` is its map's, in pixels of the image."""

    stage: int
    block: int
    stride: int
    routing: Routing


def routed_regions(
    net: nn.Module, inputs: Tensor, *, stages: Sequence[int] | None = None, block: str | int = "last"
) -> list[RoutedBlock]:
    """Chosen routed blocks of `net` on `inputs` (B, channels, height, width), as the net reads them.

    Empty for a net without a method `routed_regions(inputs)`, which gives a list of `RoutedBlock`.

    Args:
        stages: counted from 1; None takes every stage that routes.
        block: of each stage, "last", "all", or the one of that number, counted from 1.

    Raises:
        InputError: a stage or a block that routes nothing; names those that do.
    """
    if not hasattr(net, "routed_regions"):
        return []
    found: list[RoutedBlock] = net.routed_regions(inputs)  # type: ignore[operator]
    known = sorted({routed.stage + 1 for routed in found})
    for stage in stages or []:
        if stage not in known:
            raise InputError(f"stage {stage} has no routed block: expected one of {', '.join(map(str, known))}.")
    chosen = [routed for routed in found if stages is None or routed.stage + 1 in stages]
    if block == "last":
        return list({routed.stage: routed for routed in chosen}.values())
    if block == "all":
        return chosen
    numbered = [routed for routed in chosen if routed.block + 1 == block]
    if chosen and not numbered:
        there = ", ".join(f"{routed.stage + 1}.{routed.block + 1}" for routed in chosen)
        raise InputError(
            f"block {block}: expected 'last', 'all' or the number of a routed block (stage.block: {there})."
        )
    return numbered


def region_at(block: RoutedBlock, point: tuple[float, float]) -> int:
    """The region that holds a point (x, y), in pixels of what the net reads."""
    height, width = _pixels_of_a_region(block)
    return int(point[1] // height) * block.routing.grid[1] + int(point[0] // width)


def region_box(block: RoutedBlock, region: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a region, in pixels of what the net reads; padding lies beyond its edges."""
    height, width = _pixels_of_a_region(block)
    row, column = divmod(region, block.routing.grid[1])
    return column * width, row * height, (column + 1) * width, (row + 1) * height


def _pixels_of_a_region(block: RoutedBlock) -> tuple[int, int]:
    height, width = block.routing.region_size
    return height * block.stride, width * block.stride


@dataclass(frozen=True)
class Caption:
    """What is written above an image; `true_name` where the true class is known."""

    class_name: str
    score: float
    true_name: str | None = None


def draw_predictions(
    images: np.ndarray,
    captions: Sequence[Caption],
    blocks: Sequence[RoutedBlock],
    path: str | Path,
    *,
    query: tuple[float, float] = QUERY,
) -> Path:
    """Draws each image with its caption, then one panel per routed block. Returns the picture's path.

    Args:
        images: (B, height, width, 3) uint8, as the net saw them (resized and cropped).
        captions: one per image.
        blocks: what `routed_regions` gives for the same batch.
        path: where the picture goes; its suffix says the format.
        query: the point whose routes are shown, (down, across) as fractions of the image.

    Raises:
        InputError: `query` is outside the image, or there is not one caption per image.
    """
    if not all(0 <= fraction < 1 for fraction in query):
        raise InputError(f"query {query} is outside the image: give (down, across) as fractions from 0 to below 1.")
    if len(captions) != len(images):
        raise InputError(f"{len(images)} images but {len(captions)} captions: give one per image.")
    panels_per_image = 1 + len(blocks)
    across = max(1, min(len(images), PANELS_ACROSS // panels_per_image))  # images in a row
    down = -(-len(images) // across)
    figure = new_figure(2.4 * panels_per_image * across + 0.4, 2.85 * down + 0.35)
    panels = figure.subplots(down, panels_per_image * across, squeeze=False).reshape(-1, panels_per_image)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        _show(panels[index, 0], image, query)
        _write_caption(panels[index, 0], caption)
        for panel, block in zip(panels[index, 1:], blocks, strict=True):
            _show(panel, image.mean(axis=2), query)  # grey, so that the colours on it are the drawing's
            _draw_regions(panel, image.shape[:2], block, index, query)
    for panel in panels[len(images) :].flat:
        panel.set_axis_off()
    if blocks:
        figure.suptitle("query point and its region in blue; the regions it attends to in orange", fontsize=10)
    return save_figure(figure, path)


def _show(panel: Axes, image: np.ndarray, query: tuple[float, float]) -> None:
    height, width = image.shape[:2]
    smooth = "nearest" if height <= 64 else "antialiased"
    panel.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), interpolation=smooth)
    panel.plot(query[1] * width, query[0] * height, marker="o", markersize=5, color=BLUE, markeredgecolor="white")
    panel.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def _write_caption(panel: Axes, caption: Caption) -> None:
    text = f"{short(caption.class_name, 28)}, {100 * caption.score:.1f} %"
    is_wrong = caption.true_name not in (None, caption.class_name)
    if caption.true_name is not None:
        text += f"\n{'wrong, ' if is_wrong else ''}true class: {short(caption.true_name, 28)}"
    panel.set_title(text, fontsize=9, color=VERMILION if is_wrong else "black")


def _draw_regions(
    panel: Axes, image_size: tuple[int, int], block: RoutedBlock, index: int, query: tuple[float, float]
) -> None:
    rows, columns = block.routing.grid
    region = region_at(block, (query[1] * image_size[1], query[0] * image_size[0]))
    routed = [int(number) for number in block.routing.routes[index, region]]
    for number in routed:
        draw_box(panel, region_box(block, number), facecolor=ORANGE, alpha=0.5)
        draw_box(panel, region_box(block, number), fill=False, edgecolor=ORANGE, linewidth=1.5)
    draw_box(panel, region_box(block, region), fill=False, edgecolor=BLUE, linewidth=2.5)
    panel.set_title(f"stage {block.stage + 1}, block {block.block + 1}: {len(routed)} of {rows * columns}", fontsize=9)


def draw_box(panel: Axes, box: tuple[float, float, float, float], **style: Any) -> None:
    """A rectangle (left, top, right, bottom) in the panel's units, styled as matplotlib's patches are."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    panel.add_patch(Rectangle((left, top), right - left, bottom - top, **style))
