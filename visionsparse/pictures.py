"""Pictures in one call: the regions that a model's attention reads for points of an image, and augmented batches.

    find_routes(model, "cat.jpg", points=[(120, 80)])  # as data
    draw_routes(model, "cat.jpg", "routes.png", points=[(120, 80), (200, 150)])
    draw_batch("biformer/biformer_nano_digits", "batch.png")

A model has routes whose net has `routed_regions(inputs)`: see `RoutedBlock` in `visionsparse.visualization.routes`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsparse.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from visionsparse.visualization.routes import RoutedBlock

__all__ = ["draw_batch", "draw_routes", "find_routes"]

Point = tuple[float, float]

# Where the default points lie, (across, down) as fractions of what the net sees: off the borders of 4, 7 and 8 regions.
_DEFAULT_POINTS = ((0.3, 0.3), (0.45, 0.55), (0.7, 0.7))


def find_routes(
    model_or_name: nn.Module | str | Path,
    image: Any,
    points: Sequence[Point] | None = None,
    *,
    stages: Sequence[int] | None = None,
    block: str | int = "last",
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
) -> list[dict[str, Any]]:
    """The regions that the regions of some points read, for chosen blocks.

    Args:
        model_or_name: a model of `init_model`, or what `init_model` takes; a name needs `checkpoint`.
        image: a path, a PIL image, a uint8 array (height, width, 3) or a tensor (3, height, width).
        points: (x, y) in pixels of `image`, from its upper left corner; None takes three of them.
        stages: counted from 1; None takes every stage that routes.
        block: of each stage, "last", "all", or the one of that number, counted from 1.
        checkpoint: the weights, where a name is given.
        device: as in `init_model`; None leaves a model where it is.

    Returns: one dict per block and point: `stage` and `block` (from 1), `point` [x, y], `grid` [rows, columns] of
        regions, `query` [row, column] of the point's region, `query_box` [left, top, right, bottom] in pixels of
        `image`, and for the regions that it reads, best first, `regions` and `boxes` in the same manner. The box of a
        region that hangs over what the net sees is not cut.

    Raises:
        InputError: a point that the model does not see, a stage or block that routes nothing, a model without routes.
        UserError: its other kinds, as `infer`.
    """
    return see_routes(model_or_name, image, stages=stages, block=block, checkpoint=checkpoint, device=device).find(
        points
    )


def draw_routes(
    model_or_name: nn.Module | str | Path,
    image: Any,
    path: str | Path,
    points: Sequence[Point] | None = None,
    *,
    stages: Sequence[int] | None = None,
    block: str | int = "last",
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Path:
    """Draws what `find_routes` finds over the image as the net sees it: a row per block, a column per point.

    Arguments and errors are those of `find_routes`; `path` is where the picture goes, and its suffix says the format.

    Returns: `path`.
    """
    return see_routes(model_or_name, image, stages=stages, block=block, checkpoint=checkpoint, device=device).draw(
        path, points
    )


def draw_batch(
    config: str | Path,
    path: str | Path,
    *,
    split: str = "train",
    num: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Draws samples of a config's first batch: as the files hold them, and as the model gets them.

    Of "train", each sample is shown as three epochs augment it, batch augmentation (Mixup, CutMix, erasing) included,
    with its soft target; the first of them is the very batch that training starts with. The same config and seed give
    the same picture.

    Args:
        config: path or name of a config.
        path: where the picture goes; its suffix says the format.
        split: whose data loader: "train", "val" or "test".
        num: samples, at most the batch size; None takes eight, or all of a smaller batch.
        options: changes to the config, by dotted key.

    Returns: `path`.

    Raises:
        ConfigError: the config lacks the model or the loader, or has a wrong key.
        InputError: `num` is not in the batch, or the picture can't be written.
        DataError: the data can't be read.
    """
    from visionsparse.first_batch import first_batch
    from visionsparse.visualization.batch import draw_samples, target_caption

    is_training = split == "train"
    batch = first_batch(config, split=split, num=num, versions=3 if is_training else 1, options=options)
    names = batch.class_names
    captions = [
        [
            target_caption(label, names),
            *(target_caption(target[sample].numpy(), names) if target.ndim == 2 else "" for target in batch.targets),
        ]
        for sample, label in enumerate(batch.labels)
    ]
    versions = [f"epoch {epoch + 1}" for epoch in range(len(batch.images))] if is_training else ["prepared"]
    return draw_samples(
        batch.originals, batch.images, captions, path, version_names=versions, title=f"{config}: {split}"
    )


@dataclass(frozen=True)
class _View:
    """What the net sees of an image, and how pixels of the image map to pixels of that: `scale * point + offset`."""

    pixels: np.ndarray  # (height, width, 3) uint8
    image_size: tuple[int, int]  # (width, height)
    scale: Point
    offset: Point

    def points(self, points: Sequence[Point] | None) -> list[Point]:
        """The given points, checked, or the default ones; in pixels of the image."""
        if points is None:
            height, width = self.pixels.shape[:2]
            return [
                (round(x), round(y))
                for x, y in (self._to_image((across * width, down * height)) for across, down in _DEFAULT_POINTS)
            ]
        if not points:
            raise InputError("points is empty: give at least one (x, y) in pixels of the image, or None for a few.")
        return [self._checked(point) for point in points]

    def to_seen(self, point: Point) -> Point:
        """The place of a pixel's centre in what the net sees."""
        x, y = (
            scale * (value + 0.5) + offset for value, scale, offset in zip(point, self.scale, self.offset, strict=True)
        )
        return x, y

    def box_to_image(self, box: tuple[float, float, float, float]) -> list[float]:
        """[left, top, right, bottom] in pixels of the image."""
        (x0, y0), (x1, y1) = self._to_image(box[:2]), self._to_image(box[2:])
        return [round(value, 2) for value in (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))]

    def _to_image(self, point: Point) -> Point:
        x, y = ((value - offset) / scale for value, scale, offset in zip(point, self.scale, self.offset, strict=True))
        return x, y

    def _checked(self, point: Point) -> Point:
        try:
            x, y = (float(value) for value in point)
        except (TypeError, ValueError):
            raise InputError(f"point {point!r}: expected two numbers (x, y), in pixels of the image.") from None
        height, width = self.pixels.shape[:2]
        seen_x, seen_y = self.to_seen((x, y))
        if not (0 <= x < self.image_size[0] and 0 <= y < self.image_size[1]):
            raise InputError(
                f"point ({x:g}, {y:g}) is outside the image of {self.image_size[0]} x {self.image_size[1]} pixels: "
                "give (x, y) from its upper left corner."
            )
        if not (0 <= seen_x < width and 0 <= seen_y < height):
            left, top, right, bottom = self.box_to_image((0, 0, width, height))
            raise InputError(
                f"point ({x:g}, {y:g}) is cut off before the net sees the image: it sees x from "
                f"{max(left, 0):.0f} to {min(right, self.image_size[0]):.0f} and y from {max(top, 0):.0f} to "
                f"{min(bottom, self.image_size[1]):.0f}. Choose a point inside."
            )
        return x, y


@dataclass(frozen=True)
class SeenRoutes:
    """What chosen blocks of a model read of one image: as data, as a picture."""

    view: _View
    blocks: list[RoutedBlock]
    title: str

    def find(self, points: Sequence[Point] | None = None) -> list[dict[str, Any]]:
        """What `find_routes` returns."""
        from visionsparse.visualization.routes import region_at, region_box

        view, found = self.view, []
        for routed in self.blocks:
            columns = routed.routing.grid[1]
            for point in view.points(points):
                query = region_at(routed, view.to_seen(point))
                reads = [int(region) for region in routed.routing.routes[0, query]]
                found.append(
                    {
                        "stage": routed.stage + 1,
                        "block": routed.block + 1,
                        "point": list(point),
                        "grid": list(routed.routing.grid),
                        "query": list(divmod(query, columns)),
                        "query_box": view.box_to_image(region_box(routed, query)),
                        "regions": [list(divmod(region, columns)) for region in reads],
                        "boxes": [view.box_to_image(region_box(routed, region)) for region in reads],
                    }
                )
        return found

    def draw(self, path: str | Path, points: Sequence[Point] | None = None) -> Path:
        """What `draw_routes` draws; returns `path`."""
        from visionsparse.visualization.route_grid import draw_route_grid

        chosen = self.view.points(points)
        return draw_route_grid(
            self.view.pixels,
            self.blocks,
            [self.view.to_seen(point) for point in chosen],
            path,
            point_names=[f"({x:g}, {y:g})" for x, y in chosen],
            title=self.title,
        )


def see_routes(
    model_or_name: nn.Module | str | Path,
    image: Any,
    *,
    stages: Sequence[int] | None = None,
    block: str | int = "last",
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
) -> SeenRoutes:
    """Runs the model on the image, once for all that is then found or drawn; arguments and errors as `find_routes`."""
    import torch

    from visionsparse.apis import ready_model
    from visionsparse.visualization.routes import routed_regions

    model = ready_model(model_or_name, checkpoint, device)
    view = _view(model, image)
    inputs = torch.from_numpy(view.pixels).permute(2, 0, 1)[None]
    with torch.no_grad():
        normalised = model.data_preprocessor({"inputs": inputs})["inputs"]
        blocks = routed_regions(model.backbone, normalised, stages=stages, block=block)
    if not blocks:
        name = type(model.backbone).__name__
        raise InputError(f"{name}: records no routes (it needs a block that routes, and a method routed_regions).")
    return SeenRoutes(view, blocks, Path(image).name if isinstance(image, str | os.PathLike) else "")


def _view(model: Any, source: Any) -> _View:
    """Sends the image through the model's pipeline, and three of its corners with it."""
    import torch
    from torchvision.transforms import v2
    from torchvision.tv_tensors import KeyPoints

    from visionsparse.apis import read_input
    from visionsparse.datasets.transforms import to_tensor

    image = read_input(source)
    width, height = image_size = image.size
    corners = KeyPoints(torch.tensor([[0.0, 0.0], [width, 0.0], [width, height]]), canvas_size=(height, width))
    for transform in model.pipeline:
        if isinstance(transform, v2.Transform):
            image, corners = transform(image, corners)
            continue
        size, image = image.size, transform(image)
        if getattr(image, "size", None) != size:
            name = getattr(transform, "__name__", type(transform).__name__)
            raise InputError(f"{name}: points can't be followed through this step of the test pipeline, which resizes.")
    (x0, y0), (x1, y1), (x2, y2) = corners.tolist()
    if x1 != x2 or y0 != y1:
        raise InputError("the test pipeline turns the image: routes are drawn where it only resizes, crops and pads.")
    scale, offset = ((x1 - x0) / width, (y2 - y0) / height), (x0, y0)
    return _View(to_tensor(image).permute(1, 2, 0).numpy(), image_size, scale, offset)
