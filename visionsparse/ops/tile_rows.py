"""The tiles of a map or a sequence as rows of memory, so that any of them are gathered, and added to, where they lie.

A row is the longest run that is one piece of memory in every tile: the channels of a head, the heads of a token, the
tokens of a line of the tile. The memory is seen as a matrix of such rows, `step` elements apart; a tile is the numbers
of its rows, offset / step, which are those of its first row plus the same numbers for every tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class Rows:
    """Of tiles (B, L, rows, columns, tile height, tile width, H, channels), any strides; a tile's number is row-major.

    Tiles whose channels don't lie side by side are copied: `matrix` is then no view of them.
    """

    def __init__(self, tiles: Tensor) -> None:
        if tiles.shape[-1] > 1 and tiles.stride(-1) != 1:
            tiles = tiles.contiguous()
        strides = list(zip(tiles.shape, tiles.stride(), strict=True))
        last, width = 8, 1
        while last > 4 and (strides[last - 1][0] == 1 or strides[last - 1][1] == width):
            last -= 1
            width *= strides[last][0]
        step = math.gcd(*(stride for size, stride in strides[:last] if size > 1)) or max(1, width)
        end = sum((size - 1) * stride for size, stride in strides[:last]) // step + 1 if tiles.numel() else 0
        self.matrix = tiles.as_strided((end, width), (step, 1))
        of_tiles, in_tile = (
            tuple((size, stride // step if size > 1 else 0) for size, stride in part)
            for part in (strides[:4], strides[4:last])
        )
        self.layout = of_tiles, in_tile  # rows of tensors of one layout have the same numbers
        self._first, self._more = _numbers(of_tiles, tiles.device), _numbers(in_tile, tiles.device)

    def of(self, tiles: Tensor) -> Tensor:
        """(tiles,) numbers of tiles -> (tiles * rows of a tile,) numbers of rows; one past the end is an IndexError."""
        first = self._first.index_select(0, tiles)
        return first if len(self._more) == 1 else (first[:, None] + self._more).flatten()


def _numbers(strides: Iterable[tuple[int, int]], device: torch.device) -> Tensor:
    """The offset of every index, row-major, int64."""
    numbers = torch.zeros((), dtype=torch.int64, device=device)
    for size, stride in strides:
        numbers = numbers[..., None] + torch.arange(size, device=device) * stride
    return numbers.flatten()
