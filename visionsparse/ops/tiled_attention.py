"""Attention of query tiles over listed key tiles, with what it gathers kept in the cache: the torch core of the ops.

    out[r] = softmax(scale * q[r] @ K[r].T) @ V[r],   K[r] = concat(w[r, j] * k[rows[r, j]] for j), V[r] likewise

per head. Tiles whose lists are of equal length go through in chunks whose gathered keys and values stay inside the
cache; the next chunk uses the same buffers. The backward pass gathers them again; beside the inputs only the output and
its log-sum-exp are kept for it. What is computed inside a chunk is tile_attention.py's.

Heads that share their lists stay side by side, as a linear layer leaves them: one row of the gather holds all heads of
a tile, and a map is cut into tiles in long pieces (at 28 x 28 tokens and 4 heads of 32, cutting and joining was 40 % of
the forward pass with a list for each head, and is 23 %).

The ops are defined by `Library.define`: the `custom_op` decorator would import torch._dynamo at the first call (2 s).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionsparse.ops.tile_attention import choose
from visionsparse.ops.tile_chunks import Chunks

_library = torch.library.Library("visionsparse", "FRAGMENT")  # other modules add their ops to the namespace
_library.define(
    "tiled_attention(Tensor q, Tensor k, Tensor v, Tensor rows, Tensor? weights, float scale, Tensor? counts=None,"
    " Tensor? live=None) -> (Tensor, Tensor)"
)
_library.define(
    "tiled_attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor rows,"
    " Tensor? weights, float scale, Tensor? counts=None, Tensor? live=None) -> (Tensor, Tensor, Tensor, Tensor)"
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
        q: (R, Tq, H, D) query tiles; float16, bfloat16, float32 or float64. Half types are computed in float32.
        k, v: (S, Tk, H, D) and (S, Tk, H, Dv), dtype of q.
        rows: (R, topk) int32 or int64, entries in [0, S); others end in an IndexError (on CUDA in a device assertion).
        weights: (R, topk) factors of the listed keys and values, or None.
        scale: of the scores.
        counts: (R,) how many entries of its row of `rows` a tile reads; all of them by default. A tile that reads none
            gives 0.
        live: (S, Tk) bool, the keys that take part; all of them by default. Every query tile that reads a key tile must
            read a live key.

    Returns: (R, Tq, H, Dv), dtype of q. Differentiable once in q, k, v and weights. Deterministic on CPU; on CUDA the
    gradients of k and v are under torch.use_deterministic_algorithms.
    """
    out, _ = torch.ops.visionsparse.tiled_attention(q, k, v, rows, weights, scale, counts, live)
    return out.to(q.dtype)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The output in the type that is computed in, and the log-sum-exp (R, Tq, H)."""
    attention = choose(q, v)
    out, lse = _forward_shapes(q, k, v, rows, weights, scale, counts, live)
    q, k, v = (x.to(out.dtype).contiguous() for x in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        for chunk in Chunks(k, v, rows, weights, counts, live, copies=1):
            at, (keys, values) = chunk.where, chunk.gather()
            out[at], lse[at] = attention.forward(q[at], keys, values, chunk.live, scale)
    return _clear_unread(out, rows, counts), _clear_unread(lse, rows, counts)


def _backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    attention, given = choose(q, v), q.dtype
    grad_out, q, k, v = (x.to(out.dtype).contiguous() for x in (grad_out, q, k, v))
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    grad_weights = q.new_zeros(0 if weights is None else weights.shape)
    with torch.autocast(q.device.type, enabled=False):
        for chunk in Chunks(k, v, rows, weights, counts, live, copies=2):
            at, (keys, values) = chunk.where, chunk.gather()
            grad_q[at], grad_keys, grad_values = attention.backward(
                grad_out[at], q[at], keys, values, out[at], lse[at], chunk.live, scale
            )
            of_weights = chunk.scatter_gradients(grad_keys, grad_values, grad_k, grad_v)
            if of_weights is not None:
                grad_weights[at, : of_weights.shape[1]] = of_weights
    grad_q = _clear_unread(grad_q, rows, counts).to(given)
    grad_weights = grad_weights if weights is None else grad_weights.to(weights.dtype)
    return grad_q, grad_k.to(given), grad_v.to(given), grad_weights


def _clear_unread(x: Tensor, rows: Tensor, counts: Tensor | None) -> Tensor:
    """x with 0 for the tiles that read no key: no chunk has them."""
    if rows.shape[1] == 0:
        return x.zero_()
    if counts is not None and bool((unread := counts == 0).any()):
        x[unread] = 0
    return x


def _compute_dtype(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _forward_shapes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    dtype = _compute_dtype(q)
    return q.new_empty(*q.shape[:3], v.shape[3], dtype=dtype), q.new_empty(q.shape[:3], dtype=dtype)


def _backward_shapes(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    rows: Tensor,
    weights: Tensor | None,
    scale: float,
    counts: Tensor | None = None,
    live: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_weights = out.new_empty(0) if weights is None else weights.new_empty(weights.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), grad_weights


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, rows, weights, ctx.scale, counts, live = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, rows, weights, counts, live)


def _differentiate(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    # Read once: checkpointing refuses a second time.
    q, k, v, out, lse, rows, weights, counts, live = ctx.saved_tensors
    *grads, grad_weights = torch.ops.visionsparse.tiled_attention_backward(
        grad_out, q, k, v, out, lse, rows, weights, ctx.scale, counts, live
    )
    return (*grads, None, None if weights is None else grad_weights, None, None, None)


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "Attention has no second derivative on the torch backend: call it under ops.use_backend('reference')."
    )


_library.impl("tiled_attention", _forward, "CompositeExplicitAutograd")
_library.impl("tiled_attention_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionsparse::tiled_attention", _forward_shapes, lib=_library)
torch.library.register_fake("visionsparse::tiled_attention_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("visionsparse::tiled_attention", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd("visionsparse::tiled_attention_backward", _refuse_second_derivative, lib=_library)
