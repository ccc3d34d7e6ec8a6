"""Attention of query tiles over listed key tiles, with what it gathers kept in the cache: the torch core of the ops.

    out[r] = softmax(scale * q[r] @ K[r].T) @ V[r],   K[r] = concat(w[r, j] * k[rows[r, j]] for j), V[r] likewise

Tiles whose lists are of equal length go through in chunks whose gathered keys and values and score buffers stay inside
the cache; the next chunk uses the same buffers. Only the inputs are kept for the backward pass, which gathers and
computes the softmax p again:

    dV = p^T dO,  dP = dO V^T,  dS = p * (dP - rowsum(p * dP)),  dq = scale * dS K,  dK = scale * dS^T q

All keys of a query are in one chunk, so the softmax needs no log-sum-exp from the forward pass, and torch's fused
softmax (2 to 3 times as fast as exp and the sums apart) serves both ways.

The ops are defined by `Library.define`: the `custom_op` decorator would import torch._dynamo at the first call (2 s).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# One to four times the L2 cache of current server cores. Smaller chunks pay for calls (forward + backward on one EPYC
# core: 1 MiB up to 1.2 times slower, 512 KiB 1.2 to 1.5, 256 KiB 1.6 to 2.1), larger ones gain nothing and cost memory.
# On CPU this is a thread's share: threads meet after every step of a chunk, each has a cache of its own.
# On a GPU a chunk must be large enough to fill the machine.
_CHUNK_BYTES = {"cpu": 2 << 20}
_CHUNK_BYTES_ELSEWHERE = 64 << 20

# From this many queries a tile on, torch's fused CPU attention beats two products and a softmax over a chunk (8,192
# tokens, tiles of 64, width 64: 1.1 to 1.15 times as fast). It works on 32 queries at a time and on one width.
_FUSED_FROM = 32

_library = torch.library.Library("visionsparse", "FRAGMENT")  # other modules add their ops to the namespace
_library.define(
    "tiled_attention(Tensor q, Tensor k, Tensor v, Tensor rows, Tensor? weights, float scale, Tensor? counts=None,"
    " Tensor? live=None) -> Tensor"
)
_library.define(
    "tiled_attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor rows, Tensor? weights, float scale,"
    " Tensor? counts=None, Tensor? live=None) -> (Tensor, Tensor, Tensor, Tensor)"
)


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> Tensor:
    """Attention of every query tile over the key tiles that its row of `rows` lists.

    Args:
        q: (R, Tq, D) query tiles; float16, bfloat16, float32 or float64. Half types are computed in float32.
        k, v: (S, Tk, D) and (S, Tk, Dv), dtype of q.
        rows: (R, topk) int32 or int64, entries in [0, S); others end in an IndexError (on CUDA in a device assertion).
        weights: (R, topk) factors of the listed keys and values, or None.
        scale: of the scores.
        counts: (R,) how many entries of its row of `rows` a tile reads; all of them by default. A tile that reads none
            gives 0.
        live: (S, Tk) bool, the keys that take part; all of them by default. Every query tile that reads a key tile must
            read a live key.

    Returns: (R, Tq, Dv), dtype of q. Differentiable once in q, k, v and weights. Deterministic on CPU; on CUDA the
    gradients of k and v are under torch.use_deterministic_algorithms.
    """
    return torch.ops.visionsparse.tiled_attention(q, k, v, rows, weights, scale, counts, live)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> Tensor:
    dtype, given = _compute_dtype(q), q.dtype
    q, k, v = (x.to(dtype).contiguous() for x in (q, k, v))
    out = _for_tiles((q.shape[0], q.shape[1], v.shape[2]), q, counts)
    fused = q.device.type == "cpu" and q.shape[1] >= _FUSED_FROM and k.shape[2] == v.shape[2]
    chunks = _Chunks(q, k, v, rows, weights, counts, live, num_score_buffers=0 if fused else 2)
    with torch.autocast(q.device.type, enabled=False):
        for chunk in chunks:
            q_c, (keys, values) = q[chunk.where], chunk.gather()
            if fused:
                # Batch of one head: the kernel shares its threads out over both alike.
                out[chunk.where] = F.scaled_dot_product_attention(
                    q_c[:, None],
                    keys[:, None],
                    values[:, None],
                    attn_mask=None if chunk.live is None else chunk.live[:, None],
                    scale=scale,
                )[:, 0]
                continue
            scores, p = chunk.scores
            _softmax(q_c, keys, scale, chunk.live, scores, p)
            if isinstance(chunk.where, slice):
                torch.bmm(p, values, out=out[chunk.where])
            else:
                out[chunk.where] = torch.bmm(p, values)
    return out.to(given)


def _backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype, given = _compute_dtype(q), q.dtype
    grad_out, q, k, v = (x.to(dtype).contiguous() for x in (grad_out, q, k, v))
    grad_q, grad_k, grad_v = _for_tiles(q.shape, q, counts), torch.zeros_like(k), torch.zeros_like(v)
    grad_weights = None if weights is None else q.new_zeros(weights.shape)
    chunks = _Chunks(q, k, v, rows, weights, counts, live, num_score_buffers=3)
    with torch.autocast(q.device.type, enabled=False):
        for chunk in chunks:
            q_c, grad_out_c, (keys, values) = q[chunk.where], grad_out[chunk.where], chunk.gather()
            scores, p, ds = chunk.scores
            _softmax(q_c, keys, scale, chunk.live, scores, p)
            dp = torch.bmm(grad_out_c, values.mT, out=scores)
            torch.ops.aten._softmax_backward_data.out(dp, p, -1, dtype, grad_input=ds)
            if isinstance(chunk.where, slice):
                grad_q_c = grad_q[chunk.where]
                torch.baddbmm(grad_q_c, ds, keys, beta=0, alpha=scale, out=grad_q_c)
            else:
                grad_q[chunk.where] = torch.bmm(ds, keys).mul_(scale)
            # The gathered keys and values are done with: their buffers take their gradients.
            torch.baddbmm(keys, ds.mT, q_c, beta=0, alpha=scale, out=keys)
            torch.bmm(p.mT, grad_out_c, out=values)
            chunk.scatter_gradients(grad_k, grad_v, grad_weights)
    if weights is None or grad_weights is None:
        return grad_q.to(given), grad_k.to(given), grad_v.to(given), q.new_empty(0)
    return grad_q.to(given), grad_k.to(given), grad_v.to(given), grad_weights.to(weights.dtype)


def _for_tiles(shape: Sequence[int], q: Tensor, counts: Tensor | None) -> Tensor:
    """Room for what every tile that reads a key writes, 0 for the others."""
    return q.new_empty(shape) if counts is None else q.new_zeros(shape)


def _softmax(q: Tensor, keys: Tensor, scale: float, live: Tensor | None, scores: Tensor, p: Tensor) -> None:
    """p = softmax over the live keys, by way of `scores`."""
    torch.baddbmm(scores, q, keys.mT, beta=0, alpha=scale, out=scores)
    if live is not None:
        scores.masked_fill_(~live, float("-inf"))
    torch.softmax(scores, -1, out=p)


class _Chunk:
    """Some query tiles with lists of one length, and the buffers that hold what they gather."""

    def __init__(self, chunks: _Chunks, where: slice | Tensor, tiles: int, count: int) -> None:
        self.where = where  # the tiles; a slice where they lie together, so that indexing by it is no copy
        self._where_entries = (where, slice(count))
        self.index = chunks.rows[where, :count].reshape(-1).long()  # on int32 index_add_ takes twice as long
        self.weight = None if chunks.weights is None else chunks.weights[where, :count].reshape(-1, 1)
        self.live: Tensor | None = None  # (tiles, 1, keys)
        if chunks.live is not None:
            live = chunks.live.index_select(0, self.index)
            self.live = None if bool(live.all()) else live.view(tiles, 1, -1)
        self._listed = chunks.listed
        self._shape = (tiles, count)
        keys = count * chunks.tile_keys
        self.scores = [x[: tiles * chunks.tile_queries * keys].view(tiles, -1, keys) for x in chunks.score_buffers]

    def gather(self) -> list[Tensor]:
        """The listed keys and values, (tiles, keys, channels) each, in the buffers."""
        return [
            listed.gather(self.index, self.weight).view(self._shape[0], -1, listed.width) for listed in self._listed
        ]

    def scatter_gradients(self, grad_k: Tensor, grad_v: Tensor, grad_weights: Tensor | None) -> None:
        """Add the gradients that now stand in place of the gathered keys and values to those of k, v and weights."""
        for listed, target in zip(self._listed, (grad_k, grad_v), strict=True):
            grad_weight = listed.scatter_gradient(target, self.index, self.weight)
            if grad_weights is not None and grad_weight is not None:
                grad_weights[self._where_entries] += grad_weight.view(self._shape)


class _Chunks:
    """The chunks of a call, one after the other in the same buffers."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: Tensor,
        weights: Tensor | None,
        counts: Tensor | None,
        live: Tensor | None,
        num_score_buffers: int,
    ) -> None:
        self.rows, self.live = rows, live
        self.weights = None if weights is None else weights.to(q.dtype)
        self.tile_queries, self.tile_keys = q.shape[1], k.shape[1]
        channels = k.shape[2] + v.shape[2] + num_score_buffers * q.shape[1]
        chunk_bytes = _CHUNK_BYTES.get(q.device.type, _CHUNK_BYTES_ELSEWHERE)
        if q.device.type == "cpu":
            chunk_bytes *= torch.get_num_threads()
        budget = chunk_bytes // max(1, q.element_size() * channels)
        self._plan = [
            (where, tiles, count)
            for ids, count in _groups(rows, counts)
            for where, tiles in _split(ids, max(1, budget // max(1, count * k.shape[1])))
        ]
        most = max((tiles * count for _, tiles, count in self._plan), default=0)  # key tiles in a chunk
        self.listed = [_Listed(x, most, weights is not None) for x in (k, v)]
        size = most * k.shape[1] * q.shape[1]
        self.score_buffers = [q.new_empty(size) for _ in range(num_score_buffers)]

    def __iter__(self) -> Iterator[_Chunk]:
        return (_Chunk(self, *planned) for planned in self._plan)


def _groups(rows: Tensor, counts: Tensor | None) -> Iterator[tuple[range | Tensor, int]]:
    """The query tiles by length of their list: (their numbers, the length)."""
    if counts is None:
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
    """The listed tiles of `source`: chunk after chunk in one buffer, and the way back for their gradient."""

    def __init__(self, source: Tensor, size: int, weighted: bool) -> None:
        self.width = source.shape[2]
        self.source = source.flatten(1)
        self.raw = self.source.new_empty(size, self.source.shape[1])
        self.weighted = torch.empty_like(self.raw) if weighted else self.raw

    def gather(self, index: Tensor, weight: Tensor | None) -> Tensor:
        """(listed tiles, tokens * channels), a view of the buffer."""
        raw, weighted = self.raw[: index.shape[0]], self.weighted[: index.shape[0]]
        torch.index_select(self.source, 0, index, out=raw)
        if weight is not None:
            torch.mul(raw, weight, out=weighted)
        return weighted

    def scatter_gradient(self, target: Tensor, index: Tensor, weight: Tensor | None) -> Tensor | None:
        """Add the gradient that now stands in place of the gathered tiles to that of `source`; gives the weights'."""
        gradient, grad_weight = self.weighted[: index.shape[0]], None
        if weight is not None:
            grad_weight = self.raw[: index.shape[0]].mul_(gradient).sum(1)
            gradient.mul_(weight)
        target.view_as(self.source).index_add_(0, index, gradient)
        return grad_weight


def _compute_dtype(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _forward_shape(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2])


def _backward_shapes(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_weights = q.new_empty(0, dtype=_compute_dtype(q)) if weights is None else weights.new_empty(weights.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), grad_weights


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, rows, weights, ctx.scale, counts, live = inputs
    ctx.save_for_backward(q, k, v, rows, weights, counts, live)


def _differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, rows, weights, counts, live = ctx.saved_tensors  # read once: checkpointing refuses a second time
    *grads, grad_weights = torch.ops.visionsparse.tiled_attention_backward(
        grad_out, q, k, v, rows, weights, ctx.scale, counts, live
    )
    return (*grads, None, None if weights is None else grad_weights, None, None, None)


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "Attention has no second derivative on the torch backend: call it under ops.use_backend('reference')."
    )


_library.impl("tiled_attention", _forward, "CompositeExplicitAutograd")
_library.impl("tiled_attention_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionsparse::tiled_attention", _forward_shape, lib=_library)
torch.library.register_fake("visionsparse::tiled_attention_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("visionsparse::tiled_attention", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd("visionsparse::tiled_attention_backward", _refuse_second_derivative, lib=_library)
