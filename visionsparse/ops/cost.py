"""What an attention must compute and move, and the least time that a chip needs for it (the roofline).

FLOPs are 2 a multiply-add. Bytes count each input of a pass read once and each output written once.
"""

from __future__ import annotations

from typing import NamedTuple


class Cost(NamedTuple):
    flops: float
    num_bytes: float

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(self.flops + other.flops, self.num_bytes + other.num_bytes)


class Peaks(NamedTuple):
    """What a device does at most in a second."""

    name: str
    flops: dict[str, float]  # by arithmetic: "half" (float16, bfloat16), "tf32", "ieee" (float32)
    bandwidth: float  # bytes

    def seconds(self, arithmetic: str, cost: Cost) -> float:
        """The roofline: no implementation is faster."""
        return max(cost.flops / self.flops[arithmetic], cost.num_bytes / self.bandwidth)


PEAKS = {  # by compute capability; dense, from the data sheets of the SXM cards
    80: Peaks("A100", {"half": 312e12, "tf32": 156e12, "ieee": 19.5e12}, 2.039e12),
    90: Peaks("H100", {"half": 989e12, "tf32": 494.7e12, "ieee": 66.9e12}, 3.35e12),
}


class _Pass(NamedTuple):
    """Counts for D and for Dv channels: products, and maps that are read or written, of queries and of keys."""

    products: tuple[int, int]
    query_maps: tuple[int, int]
    key_maps: tuple[int, int]


_PASSES = {
    "forward": _Pass((1, 1), (1, 1), (1, 1)),
    "backward": _Pass((2, 2), (2, 2), (2, 2)),  # dP, dV, dQ, dK: computing the scores again is a choice
    "backward_queries": _Pass((2, 1), (2, 2), (1, 1)),  # the GPU kernels: both compute the scores again
    "backward_keys": _Pass((2, 2), (1, 1), (2, 2)),
}


class AttentionSize(NamedTuple):
    """An attention by its sizes, over all images and heads."""

    pairs: float  # (query, key) pairs that are computed
    queries: int
    keys: int
    width: int  # D
    value_width: int  # Dv
    list_bytes: int = 0  # of what says which keys are seen

    def cost(self, name: str, itemsize: int) -> Cost:
        """Of a pass: "forward", "backward", or a GPU kernel; `itemsize` is that of the dtype in bytes."""
        one, widths = _PASSES[name], (self.width, self.value_width)

        def channels(counts: tuple[int, int]) -> int:
            return counts[0] * widths[0] + counts[1] * widths[1]

        elements = self.queries * channels(one.query_maps) + self.keys * channels(one.key_maps)
        log_sum_exp = 4 * self.queries
        return Cost(
            flops=2 * self.pairs * channels(one.products),
            num_bytes=elements * itemsize + self.list_bytes + log_sum_exp,
        )


def block_sparse_size(
    batch: int,
    heads: int,
    tokens: int,
    block_size: tuple[int, int],
    listed: int,
    width: int,
    value_width: int | None = None,
) -> AttentionSize:
    """Of block_sparse_attention whose query blocks list `listed` key blocks each."""
    rows, blocks = batch * heads * tokens, -(-tokens // block_size[0])
    return AttentionSize(
        pairs=rows * listed * block_size[1],
        queries=rows,
        keys=rows,
        width=width,
        value_width=value_width or width,
        list_bytes=heads * blocks * (listed + 1) * 4,
    )


def routed_size(batch: int, heads: int, size: int, regions: int, topk: int, width: int) -> AttentionSize:
    """Of routed_attention on a square map of size x size tokens in regions x regions regions."""
    rows, tokens = batch * heads * size**2, (size // regions) ** 2
    return AttentionSize(rows * topk * tokens, rows, rows, width, width, batch * regions**2 * topk * 4)
