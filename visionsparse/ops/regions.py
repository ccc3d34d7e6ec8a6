"""A map cut into regions, and back: regions row-major, the tokens of a region row-major.

A region that hangs over the right or bottom edge is filled with zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def region_grid(height: int, width: int, region_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the regions that cover a map."""
    return -(-height // region_size[0]), -(-width // region_size[1])


def to_regions(x: torch.Tensor, region_size: tuple[int, int]) -> torch.Tensor:
    """(B, H, height, width, D) -> (B, H, regions, tokens of a region, D)."""
    batch, heads, height, width, channels = x.shape
    region_height, region_width = region_size
    rows, columns = region_grid(height, width, region_size)
    pad_bottom, pad_right = rows * region_height - height, columns * region_width - width
    if pad_bottom or pad_right:
        x = F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom))
    x = x.view(batch, heads, rows, region_height, columns, region_width, channels)
    return x.permute(0, 1, 2, 4, 3, 5, 6).reshape(batch, heads, rows * columns, region_height * region_width, channels)


def from_regions(x: torch.Tensor, region_size: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """(B, H, regions, tokens of a region, D) -> (B, H, height, width, D), what hangs over the edge cut off.

    The result lies in memory as (B, height, width, H, D), so that joining the heads to channels costs no copy.
    """
    batch, heads, _, _, channels = x.shape
    region_height, region_width = region_size
    rows, columns = region_grid(height, width, region_size)
    x = x.view(batch, heads, rows, columns, region_height, region_width, channels).permute(0, 2, 4, 3, 5, 1, 6)
    x = x.reshape(batch, rows * region_height, columns * region_width, heads, channels)
    return x[:, :height, :width].permute(0, 3, 1, 2, 4)
