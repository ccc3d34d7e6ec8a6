"""Query tiles in chunks whose listed key and value tiles fit into the cache, gathered into buffers that are used again.

Tiles are read where they lie in a map or a sequence, and results and gradients added there: see tile_rows.py. Fresh
buffers would cost page faults: on CPU, a third of a call's time. Lists much longer than what fits are read in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from visionsparse.ops.cpu import l2_cache_bytes
from visionsparse.ops.tile_rows import Rows

# Of gathered keys and values, in the backward pass of their gradients too; of all keys and values at most, so that on
# small maps they are not what takes the memory. On CPU three times a core's L2 cache, as measured with 512 KiB, 1 MiB
# and 2 MiB: smaller chunks pay for calls, larger ones for the memory that cores share. On a GPU enough to fill it.
CHUNK_BYTES = 3 * min(l2_cache_bytes(), 2 << 20)
CHUNK_BYTES_ELSEWHERE = 64 << 20
_LEAST_CHUNK_BYTES = 1 << 20


class Lists(NamedTuple):
    """What every query tile reads; see tiled_attention."""

    rows: Tensor  # (B, L, tiles, topk)
    weights: Tensor | None
    counts: Tensor | None  # (B, L, tiles)
    live: Tensor | None  # (B, L, key tiles, Tk)


class Listed:
    """The key and value tiles of a call and the lists of its query tiles."""

    def __init__(self, k: Tensor, v: Tensor, lists: Lists, dtype: torch.dtype) -> None:
        self.keys, self.values = Rows(k), Rows(v)
        self.buffers = Buffers(dtype, k.device)
        batch, num_lists = lists.rows.shape[:2]
        first_of_lists = torch.arange(batch * num_lists, device=k.device) * math.prod(k.shape[2:4])
        self.tiles = (lists.rows + first_of_lists.view(batch, num_lists, 1, 1)).flatten(0, 2)  # numbers in the call
        self.weights = None if lists.weights is None else lists.weights.flatten(0, 2)
        self.live = None if lists.live is None else lists.live.flatten(0, 2)
        self._counts = None if lists.counts is None else lists.counts.flatten()
        self._bytes_of_a_tile = sum(math.prod(x.tile_shape) for x in (self.keys, self.values)) * dtype.itemsize
        self._bytes = (k.numel() + v.numel()) * dtype.itemsize
        self._numbers: dict[Any, Tensor] = {}

    def chunks(self, copies: int, in_pieces: bool) -> Iterator[Chunk]:
        """All query tiles that read any key; `copies` of what is gathered are held at once. See Piece."""
        lengths = [self.tiles.shape[-1]] if self._counts is None else self._counts.unique().tolist()
        for length in filter(None, lengths):
            tiles, size = None, self.tiles.shape[0]  # all in order, where all lists are as long
            if self._counts is not None and len(lengths) > 1:
                tiles = (self._counts == length).nonzero()[:, 0]
                size = len(tiles)
            bytes_of_an_entry = copies * self._bytes_of_a_tile
            entries = _entries_of_a_piece(length, bytes_of_an_entry) if in_pieces else length
            step = self._tiles_of_a_chunk(size, entries * bytes_of_an_entry)
            for start in range(0, size, step):
                part = slice(start, min(start + step, size))
                yield Chunk(self, part if tiles is None else tiles[part], length, entries)

    def _tiles_of_a_chunk(self, size: int, bytes_of_a_piece: int) -> int:
        """How many of `size` query tiles go at once: as many for each thread, whose cache holds their pieces or one."""
        cache, threads = CHUNK_BYTES_ELSEWHERE, 1
        if self.buffers.device.type == "cpu":  # each thread has a cache of its own, and takes whole query tiles
            cache, threads = CHUNK_BYTES, torch.get_num_threads()
        bytes_of_a_piece = max(1, bytes_of_a_piece)
        most = max(1, max(_LEAST_CHUNK_BYTES, self._bytes) // bytes_of_a_piece)
        threads = min(threads, most)
        of_a_thread = min(max(1, cache // bytes_of_a_piece), most // threads)
        chunks = max(1, math.ceil(size / (of_a_thread * threads)))
        return max(1, math.ceil(size / (chunks * threads))) * threads  # chunks of about one size

    def numbers(self, rows: Rows) -> Tensor:
        """rows.numbers(), once for all rows of a layout."""
        if rows.layout not in self._numbers:
            self._numbers[rows.layout] = rows.numbers()
        return self._numbers[rows.layout]

    def gather(self, name: str, query_tiles: int, rows: Rows, numbers: Tensor) -> Buffer:
        """What rows have at numbers, in the buffer of that name."""
        buffer = self.buffers.take(name, query_tiles, rows, numbers.shape[0])
        if rows.matrix.dtype == buffer.rows.dtype:
            torch.index_select(rows.matrix, 0, numbers, out=buffer.rows)
        else:
            buffer.rows.copy_(rows.matrix.index_select(0, numbers))
        return buffer


def _entries_of_a_piece(length: int, bytes_of_an_entry: int) -> int:
    """How many entries of a list are gathered at once: all, or a cacheful where they would take more than two."""
    if length * bytes_of_an_entry <= 2 * CHUNK_BYTES:
        return length
    return math.ceil(length / math.ceil(length * bytes_of_an_entry / CHUNK_BYTES))  # pieces of about one size


class Chunk:
    """Some query tiles with lists of one length."""

    def __init__(self, listed: Listed, tiles: Tensor | slice, count: int, entries_of_a_piece: int) -> None:
        self.tiles = tiles
        self._call, self._count, self._entries_of_a_piece = listed, count, entries_of_a_piece
        self._lists = self.of(listed.tiles)
        self._numbers: dict[Any, Tensor] = {}

    def pieces(self) -> Iterator[Piece]:
        """What the lists name, once."""
        weights = None if self._call.weights is None else self.of(self._call.weights)
        for start in range(0, self._count, self._entries_of_a_piece):
            entries = slice(start, min(start + self._entries_of_a_piece, self._count))
            yield Piece(self._call, entries, self._lists[:, entries], None if weights is None else weights[:, entries])

    def of(self, x: Tensor) -> Tensor:
        """What x, (all tiles, ...), has of the chunk's own tiles."""
        return x[self.tiles] if isinstance(self.tiles, slice) else x.index_select(0, self.tiles)

    def take(self, name: str, rows: Rows) -> Tensor:
        """The chunk's own tiles of rows, (tiles, H, tokens, channels), in the buffer of that name."""
        return self._call.gather(name, self._lists.shape[0], rows, self._numbers_of(rows)).by_head

    def put(self, rows: Rows, x: Tensor) -> None:
        """Write x, (tiles, H, tokens, channels), to the chunk's own tiles of rows."""
        numbers = self._numbers_of(rows)
        x = _as_rows(x.transpose(1, 2), rows, numbers).contiguous()
        # index_copy_ takes one element at a time on CPU: a quarter of the time where they have 16 bytes
        wide = all(extent * x.itemsize % 16 == 0 for extent in (x.shape[1], rows.matrix.stride(0)))
        matrix, x = (part.view(torch.complex128) if wide else part for part in (rows.matrix, x))
        matrix.index_copy_(0, numbers, x)

    def _numbers_of(self, rows: Rows) -> Tensor:
        """The rows of the chunk's own tiles, once for all tensors of one layout."""
        if rows.layout not in self._numbers:
            self._numbers[rows.layout] = self.of(self._call.numbers(rows)).flatten()
        return self._numbers[rows.layout]


class Piece:
    """Some entries of the lists of a chunk: all of them, unless the lists are too long for the cache.

    Fused attention reads what a list names once for every 32 queries: see docs/ops_measured.md for what pieces save.
    """

    def __init__(self, listed: Listed, entries: slice, lists: Tensor, weights: Tensor | None) -> None:
        self.entries = entries
        self._call = listed
        self._shape = lists.shape  # query tiles, entries
        self._listed = lists.flatten()
        self._weights = None if weights is None else weights.reshape(-1, 1)
        self._numbers: dict[Any, Tensor] = {}
        self.live: Tensor | None = None  # (tiles, keys)
        if listed.live is not None:
            live = listed.live.index_select(0, self._listed)
            self.live = None if bool(live.all()) else live.view(lists.shape[0], -1)

    def gather(self) -> tuple[Tensor, Tensor]:
        """The listed keys and values, (tiles, H, keys, channels) each."""
        return self._gather("keys", self._call.keys), self._gather("values", self._call.values)

    def add_gradients(self, keys: Rows, grad_keys: Tensor, values: Rows, grad_values: Tensor) -> Tensor | None:
        """Add the gradients of what was gathered to those of all; gives those of the weights, (tiles, entries)."""
        by_keys = self._add("keys", keys, grad_keys.transpose(1, 2))
        by_values = self._add("values", values, grad_values.transpose(1, 2))
        return None if by_keys is None or by_values is None else (by_keys + by_values).view(self._shape)

    def _gather(self, name: str, rows: Rows) -> Tensor:
        listed = self._call.gather(name, self._shape[0], rows, self._numbers_of(rows))
        if self._weights is None:
            return listed.by_head
        weighted = self._call.buffers.take(name + " weighted", self._shape[0], rows, listed.rows.shape[0])
        tiles = self._listed.shape[0]
        torch.mul(listed.rows.view(tiles, -1), self._weights, out=weighted.rows.view(tiles, -1))
        return weighted.by_head

    def _add(self, name: str, rows: Rows, grad: Tensor) -> Tensor | None:
        of_weights = None
        if self._weights is not None:
            tiles = self._listed.shape[0]
            grad, listed = grad.reshape(tiles, -1), self._call.buffers.last(name).rows.view(tiles, -1)
            of_weights = listed.mul_(grad).sum(1)
            grad = torch.mul(grad, self._weights, out=self._call.buffers.last(name + " weighted").rows.view(tiles, -1))
        numbers = self._numbers_of(rows)
        rows.matrix.index_add_(0, numbers, _as_rows(grad, rows, numbers))
        return of_weights

    def _numbers_of(self, rows: Rows) -> Tensor:
        """The rows of the listed tiles, once for all tensors of one layout."""
        if rows.layout not in self._numbers:
            self._numbers[rows.layout] = self._call.numbers(rows).index_select(0, self._listed).flatten()
        return self._numbers[rows.layout]


def _as_rows(x: Tensor, rows: Rows, numbers: Tensor) -> Tensor:
    """As many rows as numbers, in the dtype of rows."""
    x = x.reshape(numbers.shape[0], rows.matrix.shape[1])
    return x if x.dtype == rows.matrix.dtype else x.to(rows.matrix.dtype)


class Buffer(NamedTuple):
    """Two views of one memory."""

    rows: Tensor  # (rows of the tiles, length of a row)
    by_head: Tensor  # (tiles, H, tokens, channels)


class Buffers:
    """Memory by name, of one dtype, which grows to the largest size that was asked for."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._memory: dict[str, Tensor] = {}
        self._last: dict[str, tuple[Any, Buffer]] = {}

    def take(self, name: str, tiles: int, like: Rows, num_rows: int) -> Buffer:
        """For `num_rows` rows of as many tiles; holds what was left there by the last one to take it."""
        asked = tiles, num_rows
        if name not in self._last or self._last[name][0] != asked:
            length, (_, heads, channels) = like.matrix.shape[1], like.tile_shape
            size = num_rows * length
            if name not in self._memory or self._memory[name].numel() < size:
                self._memory[name] = torch.empty(size, dtype=self.dtype, device=self.device)
            flat = self._memory[name][:size]
            by_head = flat.view(tiles, size // (tiles * heads * channels), heads, channels).transpose(1, 2)
            self._last[name] = asked, Buffer(flat.view(num_rows, length), by_head)
        return self._last[name][1]

    def last(self, name: str) -> Buffer:
        return self._last[name][1]
