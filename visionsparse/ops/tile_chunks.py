"""Query tiles in chunks whose listed key and value tiles fit into the cache, gathered into buffers that are used again.

Listed tiles are read where they lie in a map or a sequence, and their gradients added there: see tile_rows.py. Fresh
buffers would cost page faults: on CPU, a third of a call's time.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from visionsparse.ops.tile_rows import Rows

# Of gathered keys and values, in the backward pass of their gradients too; of all keys and values at most, so that on
# small maps they are not what takes the memory. On CPU a few times the L2 cache of a core: smaller chunks pay for
# calls, larger ones gain nothing. On a GPU enough to fill the machine.
CHUNK_BYTES = 2 << 20
CHUNK_BYTES_ELSEWHERE = 64 << 20
_LEAST_CHUNK_BYTES = 1 << 20

Where = tuple[slice, ...] | tuple[Tensor, ...]  # indexes the grid of query tiles, (B, L, rows, columns)


class Lists(NamedTuple):
    """What every query tile reads; see tiled_attention."""

    rows: Tensor  # (B, L, tiles, topk)
    weights: Tensor | None
    counts: Tensor | None  # (B, L, tiles)
    live: Tensor | None  # (B, L, key tiles, Tk)


class Listed:
    """The key and value tiles of a call and the lists of its grid of query tiles, (B, L, rows, columns)."""

    def __init__(self, k: Tensor, v: Tensor, lists: Lists, grid: Sequence[int], dtype: torch.dtype) -> None:
        self.keys, self.values = Rows(k), Rows(v)
        self.key_shape, self.value_shape = ((math.prod(x.shape[4:6]), *x.shape[6:]) for x in (k, v))
        self.buffers = Buffers(dtype, k.device)
        first_of_lists = torch.arange(math.prod(grid[:2]), device=k.device) * math.prod(k.shape[2:4])
        self.tiles = (lists.rows + first_of_lists.view(*grid[:2], 1, 1)).flatten(0, 2)  # numbers in the whole call
        self.weights = None if lists.weights is None else lists.weights.flatten(0, 2)
        self.live = None if lists.live is None else lists.live.flatten(0, 2)
        self._counts, self._grid = lists.counts, grid
        self._bytes_of_a_tile = (math.prod(self.key_shape) + math.prod(self.value_shape)) * dtype.itemsize
        self._bytes = (k.numel() + v.numel()) * dtype.itemsize

    def chunks(self, copies: int) -> Iterator[Chunk]:
        """All query tiles that read any key; a chunk lists as many key tiles as the cache holds `copies` of, or is one
        query tile."""
        cache = CHUNK_BYTES_ELSEWHERE
        if self.buffers.device.type == "cpu":  # each thread has a cache of its own, and takes whole tiles
            cache = CHUNK_BYTES * torch.get_num_threads()
        most = min(cache, max(_LEAST_CHUNK_BYTES, self._bytes)) // max(1, copies * self._bytes_of_a_tile)
        counts = None if self._counts is None else self._counts.flatten()
        lengths = [self.tiles.shape[-1]] if counts is None else counts.unique().tolist()
        for length in filter(None, lengths):
            at_most = max(1, most // length)
            if len(lengths) == 1:  # rectangles of tiles: indexing by them is no copy
                stop = 0
                for where in rectangles(self._grid, at_most):
                    shape = [of.stop - of.start for of in where]
                    start, stop = stop, stop + math.prod(shape)
                    yield Chunk(self, slice(start, stop), where, shape, length)
                continue
            assert counts is not None
            ids = (counts == length).nonzero()[:, 0]
            for piece in ids.tensor_split(-(-len(ids) // at_most)):
                yield Chunk(self, piece, torch.unravel_index(piece, self._grid), [len(piece)], length)


class Chunk:
    """Some query tiles with lists of one length."""

    def __init__(self, listed: Listed, numbers: slice | Tensor, where: Where, shape: Sequence[int], count: int) -> None:
        self.numbers, self.where = numbers, where  # of its query tiles: row-major, and in the grid
        self.shape = tuple(shape)  # of the query tiles that `where` takes
        self.count = count
        self._listed = listed
        self._tiles = listed.tiles[numbers, :count].flatten()
        self._weight = None if listed.weights is None else listed.weights[numbers, :count].reshape(-1, 1)
        self._rows: dict[Hashable, Tensor] = {}
        self.live: Tensor | None = None  # (tiles, keys)
        if listed.live is not None:
            live = listed.live.index_select(0, self._tiles)
            self.live = None if bool(live.all()) else live.view(math.prod(shape), -1)

    def gather(self) -> tuple[Tensor, Tensor]:
        """The listed keys and values, (tiles, keys, H, channels) each, until the next chunk."""
        keys = self._gather("keys", self._listed.keys)
        values = self._gather("values", self._listed.values)
        tiles = math.prod(self.shape)
        return keys.view(tiles, -1, *self._listed.key_shape[1:]), values.view(tiles, -1, *self._listed.value_shape[1:])

    def scatter_gradients(self, grad_keys: Tensor, grad_values: Tensor, into: tuple[Rows, Rows]) -> Tensor | None:
        """Add the gradients of what was gathered to those of all; gives those of the weights, (tiles, count)."""
        by_keys = self._scatter("keys", grad_keys, into[0])
        by_values = self._scatter("values", grad_values, into[1])
        return None if by_keys is None or by_values is None else (by_keys + by_values).view(-1, self.count)

    def _gather(self, name: str, rows: Rows) -> Tensor:
        """The listed tiles, one after the other, in a buffer."""
        buffers, index = self._listed.buffers, self._rows_in(rows)
        listed = buffers.take(name + " listed", (index.shape[0], rows.matrix.shape[1]))
        if rows.matrix.dtype == listed.dtype:
            torch.index_select(rows.matrix, 0, index, out=listed)
        else:
            listed.copy_(rows.matrix.index_select(0, index))
        if self._weight is None:
            return listed
        listed = listed.view(self._tiles.shape[0], -1)
        return torch.mul(listed, self._weight, out=buffers.take(name + " weighted", listed.shape))

    def _scatter(self, name: str, grad: Tensor, into: Rows) -> Tensor | None:
        grad, of_weight = grad.reshape(self._tiles.shape[0], -1), None
        if self._weight is not None:
            buffers = self._listed.buffers
            of_weight = buffers.take(name + " listed", grad.shape).mul_(grad).sum(1)
            grad = torch.mul(grad, self._weight, out=buffers.take(name + " weighted", grad.shape))
        into.matrix.index_add_(0, self._rows_in(into), grad.reshape(-1, into.matrix.shape[1]))
        return of_weight

    def _rows_in(self, rows: Rows) -> Tensor:
        if rows.layout not in self._rows:
            self._rows[rows.layout] = rows.of(self._tiles)
        return self._rows[rows.layout]


class Buffers:
    """Memory by name, of one dtype, which grows to the largest size that was asked for."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._memory: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """What was left there by the last one to take it, in this shape."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = torch.empty(size, dtype=self.dtype, device=self.device)
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
