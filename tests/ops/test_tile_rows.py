"""Tests of visionsparse.ops.tile_rows: tiles as rows of memory."""

from __future__ import annotations

import pytest
import torch

from visionsparse.ops.regions import cut
from visionsparse.ops.tile_rows import Rows


def a_map(batch: int = 2, heads: int = 3, side: int = 6, channels: int = 4) -> torch.Tensor:
    """(B, H, height, width, D), in memory (B, height, width, H, D)."""
    numbers = torch.arange(batch * side * side * heads * channels, dtype=torch.float32)
    return numbers.view(batch, side, side, heads, channels).permute(0, 3, 1, 2, 4)


side_by_side = a_map()
LAYOUTS = {  # of a map: heads that share a list, and the length of a row in regions of 3 x 2
    "heads side by side": (side_by_side, 1, 2 * 3 * 4),
    "a part of the channels": (a_map(channels=12)[..., 4:8], 1, 4),
    "a part of the heads": (a_map(heads=9)[:, 3:6], 1, 3 * 4),
    "a list for each head": (side_by_side, 3, 4),
    "head after head": (side_by_side.contiguous(), 1, 4),
    "a sequence of regions": (a_map(heads=1, side=2)[:, :, :, :1], 1, 4),
    "one head for all": (a_map(heads=1).expand(2, 3, 6, 6, 4), 1, 4),
    "one image for all": (a_map(batch=1).expand(2, 3, 6, 6, 4), 1, 2 * 3 * 4),
    "overlapping": (torch.arange(20.0).as_strided((1, 1, 6, 6, 4), (0, 0, 2, 1, 1)), 1, 4),
    "no image": (a_map(batch=0), 1, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_tiles_hold_their_numbers_without_a_copy(layout: str) -> None:
    x, lists, length = LAYOUTS[layout]
    tiles = cut(x, (3, 2) if x.shape[3] > 1 else (1, 1), lists)
    rows = Rows(tiles)
    assert rows.matrix.shape[1] == length
    assert rows.matrix.data_ptr() == x.data_ptr()
    every = tiles.reshape(-1, tiles[0, 0, 0, 0].numel()) if len(x) else torch.empty(0, 72)
    some = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).repeat(2)
    assert torch.equal(rows.matrix[rows.numbers()[some]].view(-1, every.shape[1]), every[some])


def test_channels_that_lie_apart_are_copied() -> None:
    x = side_by_side.permute(0, 1, 4, 2, 3).contiguous().permute(0, 1, 3, 4, 2)
    tiles = cut(x, (3, 2), 1)
    rows = Rows(tiles)
    assert rows.matrix.data_ptr() != x.data_ptr()
    assert torch.equal(rows.matrix[rows.numbers()[3]].flatten(), tiles[0, 0, 1, 0].flatten())


def test_tensors_of_one_layout_have_the_same_numbers_whatever_their_channels() -> None:
    keys, values, part = (cut(x, (3, 2), 1) for x in (a_map(), a_map(channels=7), a_map(channels=12)[..., :4]))
    assert Rows(keys).layout == Rows(values).layout != Rows(part).layout
