"""The tiles of a map or a sequence as rows of memory, so that any of them are gathered, and added to, where they lie.

A row is the longest run that is one piece of memory in every tile: the channels of a head, the heads of a token, the
tokens of a line of the tile. The memory is seen as a matrix of such rows, `step` elements apart; a tile is the numbers
of its rows, offset / step.
"""

from __future__ import annotations

import math

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
        self.tile_shape = math.prod(tiles.shape[4:6]), *tiles.shape[6:]  # tokens, H, channels
        self.layout = tuple((size, stride // step if size > 1 else 0) for size, stride in strides[:last])

    def numbers(self) -> Tensor:
        """(tiles, rows of a tile) int64; those of tensors of one layout are equal."""
        numbers = torch.zeros(1, dtype=torch.int64, device=self.matrix.device)
        for size, stride in self.layout:
            if size != 1:
                numbers = (numbers[:, None] + torch.arange(size, device=numbers.device) * stride).flatten()
        tiles, in_tile = (math.prod(size for size, _ in part) for part in (self.layout[:4], self.layout[4:]))
        return numbers.view(tiles, in_tile)
