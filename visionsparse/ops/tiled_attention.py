"""Attention of query tiles over listed key tiles, with what it gathers kept in the cache: the torch core of the ops.

    out[r] = softmax(scale * q[r] @ K[r].T) @ V[r],   K[r] = concat(w[r, j] * k[rows[r, j]] for j), V[r] likewise

Tiles go through in chunks whose gathered keys and values and score buffers stay inside the cache; the next chunk uses
the same buffers. Only the inputs are kept for the backward pass, which gathers and computes the softmax p again:

    dV = p^T dO,  dP = dO V^T,  dS = p * (dP - rowsum(p * dP)),  dq = scale * dS K,  dK = scale * dS^T q

All keys of a query are in one chunk, so the softmax needs no log-sum-exp from the forward pass, and torch's fused
softmax (2 to 3 times as fast as exp and the sums apart) serves both ways.

The ops are defined by `Library.define`: the `custom_op` decorator would import torch._dynamo at the first call (2 s).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# One to four times the L2 cache of current server cores. Smaller chunks pay for calls (forward + backward on one EPYC
# core: 1 MiB up to 1.2 times slower, 512 KiB 1.2 to 1.5, 256 KiB 1.6 to 2.1), larger ones gain nothing and cost memory.
# On a GPU a chunk must be large enough to fill the machine.
_CHUNK_BYTES = {"cpu": 2 << 20}
_CHUNK_BYTES_ELSEWHERE = 64 << 20

_library = torch.library.Library("visionsparse", "FRAGMENT")  # other modules add their ops to the namespace
_library.define("tiled_attention(Tensor q, Tensor k, Tensor v, Tensor rows, Tensor? weights, float scale) -> Tensor")
_library.define(
    "tiled_attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor rows, Tensor? weights, float scale)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, weights: Tensor | None, scale: float) -> Tensor:
    """Attention of every query tile over the key tiles that its row of `rows` lists.

    Args:
        q: (R, Tq, D) query tiles; float16, bfloat16, float32 or float64. Half types are computed in float32.
        k, v: (S, Tk, D) and (S, Tk, Dv), dtype of q.
        rows: (R, topk) int32 or int64, entries in [0, S); others end in an IndexError (on CUDA in a device assertion).
        weights: (R, topk) factors of the listed keys and values, or None.
        scale: of the scores.

    Returns: (R, Tq, Dv), dtype of q. Differentiable once in q, k, v and weights. Deterministic on CPU; on CUDA the
    gradients of k and v are under torch.use_deterministic_algorithms.
    """
    return torch.ops.visionsparse.tiled_attention(q, k, v, rows, weights, scale)


def _forward(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, weights: Tensor | None, scale: float) -> Tensor:
    dtype, given = _compute_dtype(q), q.dtype
    q, k, v = (x.to(dtype).contiguous() for x in (q, k, v))
    out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
    size = _tiles_per_chunk(q, k, v, rows, num_score_buffers=2)
    listed_k, listed_v = (_Listed(x, size, rows.shape[1], weights is not None) for x in (k, v))
    score_buffer, p_buffer = (q.new_empty(size, q.shape[1], rows.shape[1] * k.shape[1]) for _ in range(2))
    with torch.autocast(q.device.type, enabled=False):
        for tiles, q_c, index, weight, out_c in _chunks(size, q, rows, weights, out):
            keys, values = listed_k.gather(index, weight, tiles), listed_v.gather(index, weight, tiles)
            scores, p = score_buffer[:tiles], p_buffer[:tiles]
            torch.baddbmm(scores, q_c, keys.mT, beta=0, alpha=scale, out=scores)
            torch.softmax(scores, -1, out=p)
            torch.bmm(p, values, out=out_c)
    return out.to(given)


def _backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, weights: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype, given = _compute_dtype(q), q.dtype
    grad_out, q, k, v = (x.to(dtype).contiguous() for x in (grad_out, q, k, v))
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    grad_weights = None if weights is None else q.new_zeros(weights.shape)
    size = _tiles_per_chunk(q, k, v, rows, num_score_buffers=3)
    listed_k, listed_v = (_Listed(x, size, rows.shape[1], weights is not None) for x in (k, v))
    buffers = [q.new_empty(size, q.shape[1], rows.shape[1] * k.shape[1]) for _ in range(3)]
    with torch.autocast(q.device.type, enabled=False):
        chunks = _chunks(size, q, rows, weights, grad_q, grad_out, grad_weights)
        for tiles, q_c, index, weight, grad_q_c, grad_out_c, grad_weights_c in chunks:
            keys, values = listed_k.gather(index, weight, tiles), listed_v.gather(index, weight, tiles)
            scores, p, ds = (buffer[:tiles] for buffer in buffers)
            torch.baddbmm(scores, q_c, keys.mT, beta=0, alpha=scale, out=scores)
            torch.softmax(scores, -1, out=p)
            dp = torch.bmm(grad_out_c, values.mT, out=scores)
            torch.ops.aten._softmax_backward_data.out(dp, p, -1, dtype, grad_input=ds)
            torch.baddbmm(grad_q_c, ds, keys, beta=0, alpha=scale, out=grad_q_c)
            # The gathered keys and values are done with: their buffers take their gradients.
            torch.baddbmm(keys, ds.mT, q_c, beta=0, alpha=scale, out=keys)
            torch.bmm(p.mT, grad_out_c, out=values)
            listed_k.scatter_gradient(grad_k, index, weight, grad_weights_c)
            listed_v.scatter_gradient(grad_v, index, weight, grad_weights_c)
    if weights is None or grad_weights is None:
        return grad_q.to(given), grad_k.to(given), grad_v.to(given), q.new_empty(0)
    return grad_q.to(given), grad_k.to(given), grad_v.to(given), grad_weights.to(weights.dtype)


class _Listed:
    """The listed tiles of `source`: chunk after chunk in one buffer, and the way back for their gradient."""

    def __init__(self, source: Tensor, size: int, topk: int, weighted: bool) -> None:
        self.shape = (topk * source.shape[1], source.shape[2])
        self.source = source.flatten(1)
        self.raw = self.source.new_empty(size * topk, self.source.shape[1])
        self.weighted = torch.empty_like(self.raw) if weighted else self.raw

    def gather(self, index: Tensor, weight: Tensor | None, tiles: int) -> Tensor:
        """(tiles, topk * tokens, channels), a view of the buffer."""
        raw, weighted = self.raw[: index.shape[0]], self.weighted[: index.shape[0]]
        torch.index_select(self.source, 0, index, out=raw)
        if weight is not None:
            torch.mul(raw, weight, out=weighted)
        return weighted.view(tiles, *self.shape)

    def scatter_gradient(
        self, target: Tensor, index: Tensor, weight: Tensor | None, grad_weight: Tensor | None
    ) -> None:
        """Add the gradient that now stands in place of the gathered tiles to those of `source` and of the weights."""
        gradient = self.weighted[: index.shape[0]]
        if weight is not None and grad_weight is not None:
            grad_weight.view(-1).add_(self.raw[: index.shape[0]].mul_(gradient).sum(1))
            gradient.mul_(weight)
        target.view_as(self.source).index_add_(0, index, gradient)


def _chunks(size: int, q: Tensor, rows: Tensor, weights: Tensor | None, *others: Tensor | None) -> Any:
    """Of every chunk: number of tiles, q, the flat index, its weights as a column, the chunk of each other tensor."""
    if q.shape[0] == 0:
        return  # split would give one empty chunk
    count = -(-q.shape[0] // size)
    weights = None if weights is None else weights.to(q.dtype)
    pieces = ([None] * count if x is None else x.split(size) for x in (q, rows, weights, *others))
    for q_c, rows_c, weights_c, *others_c in zip(*pieces, strict=True):
        index = rows_c.reshape(-1).long()  # on int32 index_add_ takes twice as long
        yield q_c.shape[0], q_c, index, None if weights_c is None else weights_c.reshape(-1, 1), *others_c


def _tiles_per_chunk(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, num_score_buffers: int) -> int:
    keys = rows.shape[1] * k.shape[1]
    tile_bytes = keys * (k.shape[2] + v.shape[2] + num_score_buffers * q.shape[1]) * q.element_size()
    budget = _CHUNK_BYTES.get(q.device.type, _CHUNK_BYTES_ELSEWHERE)
    return max(1, min(q.shape[0], budget // max(1, tile_bytes)))


def _compute_dtype(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _forward_shape(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, weights: Tensor | None, scale: float) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2])


def _backward_shapes(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, weights: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_weights = q.new_empty(0, dtype=_compute_dtype(q)) if weights is None else weights.new_empty(weights.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), grad_weights


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
    *grads, grad_weights = torch.ops.visionsparse.tiled_attention_backward(grad_out, *saved, ctx.scale)
    return (*grads, None, None if saved[4] is None else grad_weights, None)


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
