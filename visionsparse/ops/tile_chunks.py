"""Query tiles in chunks whose listed key and value tiles fit into the cache, gathered into buffers that are used again.

Tiles are read where they lie in a map or a sequence. Keys and values are laid out tile by tile for a few images (a
slab) at a time, so that a listed tile is one piece of memory. Fresh buffers of whole maps would cost page faults: on
CPU, a third of a call's time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Of gathered keys and values, in the backward pass of their gradients too; of all keys and values at most, so that on
# small maps they are not what takes the memory. On CPU a few times the L2 cache of a core: smaller chunks pay for
# calls, larger ones gain nothing. On a GPU enough to fill the machine.
CHUNK_BYTES = 4 << 20
CHUNK_BYTES_ELSEWHERE = 64 << 20
_LEAST_CHUNK_BYTES = 1 << 20

Where = tuple[slice, ...] | tuple[Tensor, ...]  # indexes a slab's grid of tiles, (images, lists, rows, columns)


class Lists(NamedTuple):
    """What every query tile reads; see tiled_attention."""

    rows: Tensor  # (B, L, tiles, topk)
    weights: Tensor | None
    counts: Tensor | None  # (B, L, tiles)
    live: Tensor | None  # (B, L, key tiles, Tk)


class Chunk:
    """Some query tiles of a slab with lists of one length."""

    def __init__(self, slab: Slab, where: Where, shape: Sequence[int], count: int) -> None:
        self.where = where
        self.shape = tuple(shape)  # of the tiles that `where` takes
        self.tiles, self.count = math.prod(shape), count
        self._slab = slab
        self._index = slab.rows[where][..., :count].reshape(-1)
        self._weight = None if slab.weights is None else slab.weights[where][..., :count].reshape(-1, 1)
        self.live: Tensor | None = None  # (tiles, keys)
        if slab.live is not None:
            live = slab.live.index_select(0, self._index)
            self.live = None if bool(live.all()) else live.view(self.tiles, -1)

    def gather(self) -> tuple[Tensor, Tensor]:
        """The listed keys and values, (tiles, keys, H, channels) each, until the next chunk."""
        keys, values = (x.gather(self._index, self._weight) for x in self._slab.listed)
        return keys.view(self.tiles, -1, *keys.shape[2:]), values.view(self.tiles, -1, *values.shape[2:])

    def scatter_gradients(self, grad_keys: Tensor, grad_values: Tensor) -> Tensor | None:
        """Add the gradients of what was gathered to the slab's; gives those of the weights, (*shape, count)."""
        keys, values = self._slab.listed
        by_keys = keys.scatter_gradient(grad_keys, self._index, self._weight)
        by_values = values.scatter_gradient(grad_values, self._index, self._weight)
        return None if by_keys is None or by_values is None else (by_keys + by_values).view(*self.shape, self.count)


class Slab:
    """The key and value tiles of some images and lists, and the query tiles that read them."""

    def __init__(
        self, at: tuple[slice, ...], grid: Sequence[int], lists: Lists, listed: list[Listed], most: int
    ) -> None:
        self.at, self.listed = at, listed  # `at` indexes the first two dimensions of all tiles
        self._lists, self._most = lists, most  # key tiles of a chunk
        rows = lists.rows[at].long()  # on int32 index_add_ takes twice as long
        self._grid = (*rows.shape[:2], *grid)
        groups = torch.arange(math.prod(rows.shape[:2]), device=rows.device).view(*rows.shape[:2], 1, 1)
        self.rows = (rows + groups * listed[0].tiles_of_a_group).unflatten(2, grid)
        self.weights = None if lists.weights is None else lists.weights[at].unflatten(2, grid)
        self.live = None if lists.live is None else lists.live[at].flatten(0, 2)

    def start_gradients(self, grad_k: Tensor, grad_v: Tensor) -> None:
        """From here on `scatter_gradients` adds up the slab's part of these, whose content is overwritten."""
        for listed, grad in zip(self.listed, (grad_k, grad_v), strict=True):
            listed.start_gradient(grad[self.at])

    def finish_gradients(self) -> None:
        for listed in self.listed:
            listed.finish_gradient()

    def chunks(self) -> Iterator[Chunk]:
        """All query tiles that read any key; a chunk lists as many key tiles as is the most, or is one query tile."""
        counts = None if self._lists.counts is None else self._lists.counts[self.at].reshape(-1)
        lengths = [self.rows.shape[-1]] if counts is None else counts.unique().tolist()
        for length in filter(None, lengths):
            at_most = max(1, self._most // length)
            if len(lengths) == 1:  # rectangles of tiles: indexing by them is no copy
                for where in rectangles(self._grid, at_most):
                    yield Chunk(self, where, [of.stop - of.start for of in where], length)
                continue
            assert counts is not None
            ids = (counts == length).nonzero()[:, 0]
            for piece in ids.tensor_split(-(-len(ids) // at_most)):
                yield Chunk(self, torch.unravel_index(piece, self._grid), [len(piece)], length)


def slabs(q: Tensor, k: Tensor, v: Tensor, lists: Lists, dtype: torch.dtype, copies: int) -> Iterator[Slab]:
    """The slabs of a call, one after the other in the same buffers.

    Args:
        q, k, v: tiles as in tiled_attention.
        dtype: that is computed in.
        copies: how many of a chunk's keys and values are held.
    """
    buffers, every = Buffers(dtype, q.device), (k.numel() + v.numel()) * dtype.itemsize
    cache, workers = CHUNK_BYTES_ELSEWHERE, 1
    if q.device.type == "cpu":  # a thread's share: each has a cache of its own, and takes whole tiles
        cache, workers = CHUNK_BYTES, torch.get_num_threads()
    tile = max(1, every // max(1, math.prod(k.shape[:4])))
    most = min(cache * workers, max(_LEAST_CHUNK_BYTES, every)) // (copies * tile)
    groups = max(1, cache // (tile * max(1, math.prod(k.shape[2:4]))))
    for at in rectangles(k.shape[:2], groups):
        listed = [Listed(x[at], name, buffers) for x, name in ((k, "keys"), (v, "values"))]
        yield Slab(at, q.shape[2:4], lists, listed, most)


class Listed:
    """The key or value tiles of a slab, (nb, nl, rows, columns, tile height, tile width, H, channels)."""

    def __init__(self, source: Tensor, name: str, buffers: Buffers) -> None:
        self.tiles_of_a_group = math.prod(source.shape[2:4])
        self._shape, self._name, self._buffers = source.shape, name, buffers
        self._tiles = self._flat(self._laid_out(source, name, copy=True))

    def _laid_out(self, x: Tensor, name: str, copy: bool) -> Tensor:
        """x if it lies in memory tile by tile, else a buffer of its shape, with x copied into it if asked."""
        if x.is_contiguous() and x.dtype == self._buffers.dtype:
            return x
        buffer = self._buffers.take(name, x.shape)
        return buffer.copy_(x) if copy else buffer

    def _flat(self, x: Tensor) -> Tensor:
        return x.view(math.prod(self._shape[:4]), math.prod(self._shape[4:]))  # index_add_ is quicker on two dimensions

    def gather(self, index: Tensor, weight: Tensor | None) -> Tensor:
        """(listed tiles, Tk, H, channels) in a buffer."""
        shape = (index.shape[0], self._tiles.shape[1])
        listed = torch.index_select(self._tiles, 0, index, out=self._buffers.take(self._name + " listed", shape))
        if weight is not None:
            listed = torch.mul(listed, weight, out=self._buffers.take(self._name + " weighted", shape))
        return listed.unflatten(1, (-1, *self._shape[6:]))

    def start_gradient(self, into: Tensor) -> None:
        """`into` has the shape of the source, and any content."""
        self._into = into
        self._total = self._laid_out(into, self._name + " gradient", copy=False).zero_()

    def scatter_gradient(self, grad: Tensor, index: Tensor, weight: Tensor | None) -> Tensor | None:
        """Add the gradient of what `gather` gave to that of the source; gives that of the weight."""
        grad, of_weight = grad.reshape(index.shape[0], -1), None
        if weight is not None:
            of_weight = self._buffers.take(self._name + " listed", grad.shape).mul_(grad).sum(1)
            grad = torch.mul(grad, weight, out=self._buffers.take(self._name + " weighted", grad.shape))
        self._flat(self._total).index_add_(0, index, grad)
        return of_weight

    def finish_gradient(self) -> None:
        if self._total is not self._into:
            self._into.copy_(self._total)


class Buffers:
    """Memory by name, of one dtype, which grows to the largest size that was asked for."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self._device = dtype, device
        self._memory: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """What was left there by the last one to take it, in this shape."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = torch.empty(size, dtype=self.dtype, device=self._device)
        return self._memory[name][:size].view(shape)


def rectangles(shape: Sequence[int], most: int) -> Iterator[tuple[slice, ...]]:
    """A grid row by row in rectangles of `most` cells or fewer, as even as can be; `most` is at least 1."""
    extent, *rest = shape
    inner = math.prod(rest)
    if inner > most:
        for i in range(extent):
            for piece in rectangles(rest, most):
                yield slice(i, i + 1), *piece
        return
    pieces = -(-extent // (most // max(1, inner)))
    step = -(-extent // max(1, pieces))
    for start in range(0, extent, max(1, step)):
        yield slice(start, min(start + step, extent)), *(slice(0, size) for size in rest)
