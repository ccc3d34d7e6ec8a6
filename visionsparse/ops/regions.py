"""A map cut into regions, and back: regions row-major, the tokens of a region row-major.

A region that hangs over the right or bottom edge is filled with zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def region_grid(height: int, width: int, region_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the regions that cover a map."""
    return -(-height // region_size[0]), -(-width // region_size[1])


def cut(x: torch.Tensor, region_size: tuple[int, int], lists: int) -> torch.Tensor:
    """(B, H, height, width, D) -> (B, lists, rows, columns, region height, region width, H / lists, D).

    A view of the map, or of its copy with zeros beyond the edge.
    """
    rows, columns = region_grid(x.shape[2], x.shape[3], region_size)
    x = _filled(x, region_size)
    x = x.unflatten(3, (columns, region_size[1])).unflatten(2, (rows, region_size[0]))
    return x.unflatten(1, (lists, x.shape[1] // lists)).permute(0, 1, 3, 5, 4, 6, 2, 7)


def uncut(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, lists, rows, columns, region height, region width, H, D) -> (B, lists * H, height, width, D).

    What hangs over the edge is cut off. A view where x lies in memory as (B, height, width, lists * H, D).
    """
    x = x.permute(0, 1, 6, 2, 4, 3, 5, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return x[:, :, :height, :width] if x.shape[2:4] != (height, width) else x  # slicing is a copy in the backward pass


def to_regions(x: torch.Tensor, region_size: tuple[int, int]) -> torch.Tensor:
    """(B, H, height, width, D) -> (B, H, regions, tokens of a region, D).

    The result lies in memory as (B, regions, tokens, H, D): heads stay side by side, as a linear layer leaves them, so
    that the copy moves long pieces.
    """
    batch, heads, height, width, channels = x.shape
    region_height, region_width = region_size
    rows, columns = region_grid(height, width, region_size)
    x = _filled(x, region_size)
    x = x.permute(0, 2, 3, 1, 4)  # before it is cut, so that the gradient is put together in this order, too
    x = x.reshape(batch, rows, region_height, columns, region_width, heads, channels).transpose(2, 3)
    x = x.reshape(batch, rows * columns, region_height * region_width, heads, channels)
    return x.permute(0, 3, 1, 2, 4)


def from_regions(x: torch.Tensor, region_size: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """(B, H, regions, tokens of a region, D) -> (B, H, height, width, D), what hangs over the edge cut off.

    The result lies in memory as (B, height, width, H, D), so that joining the heads to channels costs no copy.
    """
    batch, heads, _, _, channels = x.shape
    rows, columns = region_grid(height, width, region_size)
    x = x.permute(0, 2, 3, 1, 4).reshape(batch, rows, columns, *region_size, heads, channels).transpose(2, 3)
    x = x.reshape(batch, rows * region_size[0], columns * region_size[1], heads, channels)
    if x.shape[1:3] != (height, width):  # else slicing is a copy in the backward pass
        x = x[:, :height, :width]
    return x.permute(0, 3, 1, 2, 4)


def _filled(x: torch.Tensor, region_size: tuple[int, int]) -> torch.Tensor:
    """(B, H, height, width, D) with zeros up to the end of the last regions."""
    height, width = x.shape[2:4]
    rows, columns = region_grid(height, width, region_size)
    pad_bottom, pad_right = rows * region_size[0] - height, columns * region_size[1] - width
    return F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom)) if pad_bottom or pad_right else x
