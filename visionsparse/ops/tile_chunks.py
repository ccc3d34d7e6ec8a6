"""Query tiles in chunks whose listed key and value tiles fit into the cache, gathered into buffers that are used again.

Fresh buffers of this size would cost page faults: on CPU half of a gather's time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Of gathered keys and values, in the backward pass of their gradients too. On CPU one to four times the L2 cache of
# current server cores: smaller chunks pay for calls, larger ones fall out of the cache and cost memory. On a GPU enough
# to fill the machine.
CHUNK_BYTES = 2 << 20
CHUNK_BYTES_ELSEWHERE = 64 << 20
_SMALL_CHUNK_BYTES = 1 << 20  # where keys and values are small, so that the chunk is not what takes the memory


class Chunk:
    """Some query tiles with lists of one length."""

    def __init__(self, chunks: Chunks, where: slice | Tensor, tiles: int, count: int) -> None:
        self.where = where  # the tiles; a slice where they lie together, so that indexing by it is no copy
        self._chunks, self._shape = chunks, (tiles, count)
        self.index = chunks.rows[where, :count].reshape(-1).long()  # on int32 index_add_ takes twice as long
        self.weight = None if chunks.weights is None else chunks.weights[where, :count].reshape(-1, 1)
        self.live: Tensor | None = None  # (tiles, keys)
        if chunks.live is not None:
            live = chunks.live.index_select(0, self.index)
            self.live = None if bool(live.all()) else live.view(tiles, -1)

    def gather(self) -> tuple[Tensor, Tensor]:
        """The listed keys and values, (tiles, keys, H, channels) each, until the next chunk."""
        keys, values = (x.gather(self.index, self.weight) for x in self._chunks.listed)
        return keys.view(self._shape[0], -1, *keys.shape[2:]), values.view(self._shape[0], -1, *values.shape[2:])

    def scatter_gradients(
        self, grad_keys: Tensor, grad_values: Tensor, grad_k: Tensor, grad_v: Tensor
    ) -> Tensor | None:
        """Add the gradients of what was gathered to those of k and v; gives those of the weights, (tiles, count)."""
        keys, values = self._chunks.listed
        by_keys = keys.scatter_gradient(grad_keys, grad_k, self.index, self.weight)
        by_values = values.scatter_gradient(grad_values, grad_v, self.index, self.weight)
        return None if by_keys is None or by_values is None else (by_keys + by_values).view(self._shape)


class Chunks:
    """The chunks of a call, one after the other in the same buffers; `copies` of a chunk's keys and values are held."""

    def __init__(
        self,
        k: Tensor,
        v: Tensor,
        rows: Tensor,
        weights: Tensor | None,
        counts: Tensor | None,
        live: Tensor | None,
        copies: int,
    ) -> None:
        self.rows, self.live = rows, live
        self.weights = None if weights is None else weights.to(k.dtype)
        tile_bytes = copies * (_bytes(k) + _bytes(v)) // max(1, k.shape[0])
        at_most, workers = CHUNK_BYTES_ELSEWHERE, 1
        if k.device.type == "cpu":  # a thread's share: each has a cache of its own, and takes whole tiles
            at_most, workers = CHUNK_BYTES, torch.get_num_threads()
        budget = min(at_most, max(_SMALL_CHUNK_BYTES, (_bytes(k) + _bytes(v)) // 2)) // max(1, tile_bytes)
        self._plan = [
            (where, tiles, count)
            for ids, count in _groups(rows, counts)
            for where, tiles in _split(ids, max(1, budget // count) * workers)
        ]
        most = max((tiles * count for _, tiles, count in self._plan), default=0)  # key tiles in a chunk
        self.listed = [_Listed(x, most, weights is not None) for x in (k, v)]

    def __iter__(self) -> Iterator[Chunk]:
        return (Chunk(self, *planned) for planned in self._plan)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _groups(rows: Tensor, counts: Tensor | None) -> Iterator[tuple[range | Tensor, int]]:
    """The query tiles by length of their list: (their numbers, the length, at least 1)."""
    if counts is None:
        if rows.shape[1] > 0:
            yield range(rows.shape[0]), rows.shape[1]
        return
    order = counts.argsort(stable=True)  # tiles of one image and head stay together, so that its keys stay in the cache
    lengths, sizes = (x.tolist() for x in counts.unique(return_counts=True))
    for length, ids in zip(lengths, order.split(sizes), strict=True):
        if length > 0:
            yield ids, length


def _split(ids: range | Tensor, size: int) -> Iterator[tuple[slice | Tensor, int]]:
    """Pieces of at most `size` tiles: (a slice if the tiles lie together, else their numbers; how many)."""
    for start in range(0, len(ids), size):
        piece = ids[start : start + size]
        first, last = int(piece[0]), int(piece[-1])
        together = last - first + 1 == len(piece)  # they ascend
        yield slice(first, last + 1) if together or isinstance(piece, range) else piece, len(piece)


class _Listed:
    """The listed tiles of `source` (S, Tk, H, channels), chunk after chunk in one buffer."""

    def __init__(self, source: Tensor, size: int, weighted: bool) -> None:
        self._tile = source.shape[1:]
        self._rows = source.flatten(1)  # index_add_ is quicker on two dimensions
        self._raw = self._rows.new_empty(size, self._rows.shape[1])
        self._weighted = torch.empty_like(self._raw) if weighted else self._raw

    def gather(self, index: Tensor, weight: Tensor | None) -> Tensor:
        """(listed tiles, Tk, H, channels), a view of the buffer."""
        raw, weighted = self._raw[: index.shape[0]], self._weighted[: index.shape[0]]
        torch.index_select(self._rows, 0, index, out=raw)
        if weight is not None:
            torch.mul(raw, weight, out=weighted)
        return weighted.unflatten(1, self._tile)

    def scatter_gradient(self, grad: Tensor, total: Tensor, index: Tensor, weight: Tensor | None) -> Tensor | None:
        """Add the gradient of what `gather` gave to that of `source`; gives that of the weight."""
        grad, of_weight = grad.reshape(index.shape[0], -1), None
        if weight is not None:
            of_weight = self._raw[: index.shape[0]].mul_(grad).sum(1)
            grad = torch.mul(grad, weight, out=self._weighted[: index.shape[0]])
        total.view_as(self._rows).index_add_(0, index, grad)
        return of_weight
