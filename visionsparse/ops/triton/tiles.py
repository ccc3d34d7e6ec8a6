"""Tile sizes of the attention kernels, by kernel, arithmetic, head width and chip.

Chosen so that no kernel spills, none asks for more shared memory than its chip has, and every product but those of
ieee float32 runs on tensor cores: `visionsparse inspect-kernels` checks it for widths up to 128. Wider heads may spill.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from visionsparse.ops.triton.target import Target


class Tile(NamedTuple):
    own: int
    listed: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None  # of a thread; without it ptxas may spill a little for the sake of occupancy


# (kernel, arithmetic): the tile for widths up to 32, 64, 128, 256.
_AMPERE: dict[tuple[str, str], tuple[Tile, Tile, Tile, Tile]] = {
    ("forward", "half"): (Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), Tile(128, 64, 8, 3), Tile(64, 32, 8, 2)),
    ("forward", "tf32"): (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 32, 8, 1)),
    ("forward", "ieee"): (Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 16, 8, 2, 128), Tile(16, 16, 8, 2)),
    ("backward_queries", "half"): (Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 32, 8, 1)),
    ("backward_queries", "tf32"): (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 32, 8, 2), Tile(32, 16, 8, 1)),
    ("backward_queries", "ieee"): (Tile(32, 32, 8, 2), Tile(32, 16, 4, 2), Tile(32, 16, 8, 2), Tile(16, 16, 8, 2)),
    ("backward_keys", "half"): (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(64, 32, 8, 2), Tile(32, 32, 8, 1)),
    ("backward_keys", "tf32"): (Tile(64, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 8, 2), Tile(32, 16, 8, 1)),
    ("backward_keys", "ieee"): (Tile(32, 16, 4, 2), Tile(32, 16, 4, 2), Tile(32, 32, 8, 2), Tile(16, 16, 8, 2)),
}
_HOPPER = _AMPERE | {  # where its tensor cores' 64 rows or its larger shared memory pay
    ("forward", "tf32"): (Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 32, 8, 1)),
    ("backward_queries", "half"): (Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(32, 32, 8, 1)),
    ("backward_queries", "tf32"): (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(64, 32, 8, 2), Tile(32, 16, 8, 1)),
    ("backward_keys", "half"): (Tile(64, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 32, 8, 2), Tile(32, 32, 8, 1)),
    ("backward_keys", "tf32"): (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(64, 32, 8, 2), Tile(32, 16, 8, 1)),
    ("backward_keys", "ieee"): (Tile(32, 16, 4, 2), Tile(32, 16, 4, 2), Tile(16, 16, 4, 2), Tile(16, 16, 8, 2)),
}
_WIDTHS = (32, 64, 128, 256)


def choose_tile(kernel: str, q: Tensor, v: Tensor, target: Target, tokens: int, longest: int) -> Tile:
    """The tile for groups of `tokens` rows whose lists have up to `longest` positions: not larger than they fill."""
    arithmetic = target.precision if q.dtype == torch.float32 else "half"
    table = _HOPPER if 90 <= target.capability < 120 else _AMPERE  # 12.x has less shared memory
    width = max(q.shape[-1], v.shape[-1])
    tile = table[kernel, arithmetic][next(i for i, limit in enumerate(_WIDTHS) if width <= limit)]
    own, listed = min(tile.own, _filled(tokens)), min(tile.listed, _filled(longest))
    num_warps, num_stages = max(4, tile.num_warps * own // tile.own), tile.num_stages
    if arithmetic != "ieee":  # whose operands spill where they do not lie in the pipeline's buffers
        num_stages = max(1, min(num_stages, triton.cdiv(longest, listed)))  # no more tiles than there are
    return Tile(own, listed, num_warps, num_stages, 255 if arithmetic == "tf32" else tile.max_registers)


def _filled(extent: int) -> int:
    return max(16, triton.next_power_of_2(extent))  # tensor cores take 16 rows and more
