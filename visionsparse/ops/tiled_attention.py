"""Attention of query tiles over listed key tiles, with what it gathers kept in the cache: the torch core of the ops.

    out[r] = softmax(scale * q[r] @ K[r].T) @ V[r],   K[r] = concat(w[r, j] * k[rows[r, j]] for j), V[r] likewise

per image, list and head. Tiles whose lists are of equal length go through in chunks whose gathered keys and values stay
inside the cache; the next chunk uses the same buffers: see tile_chunks.py. The backward pass gathers them again; beside
the inputs only the output and its log-sum-exp are kept for it. What is computed inside a chunk is tile_attention.py's.

Tiles are given as views of the map or sequence that they are cut from, and written as such: no map is copied. Heads
that share their lists stay side by side, as a linear layer leaves them: a row of the gather holds all heads of a tile.

The ops are defined by `Library.define`: the `custom_op` decorator would import torch._dynamo at the first call (2 s).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visionsparse.ops.tile_attention import choose, joined
from visionsparse.ops.tile_chunks import Listed, Lists
from visionsparse.ops.tile_rows import Rows

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

    Tiles are (B, L, rows, columns, tile height, tile width, H, channels), any strides: images, sets of lists, a grid of
    tiles, the tokens of a tile, the heads that share a set of lists. A sequence is a grid of one column.

    Args:
        q: query tiles with D channels; float16, bfloat16, float32 or float64. Half types are computed in float32.
        k, v: key and value tiles with D and Dv channels, dtype of q; their grid and tile size may differ from q's.
        rows: (B, L, tiles, topk) int32 or int64, numbers of key tiles of the same image and list; one past all tiles of
            the call ends in an IndexError (on CUDA in a device assertion).
        weights: (B, L, tiles, topk) factors of the listed keys and values, or None.
        scale: of the scores.
        counts: (B, L, tiles) how many entries of its row of `rows` a tile reads; all of them by default. A tile that
            reads none gives 0.
        live: (B, L, key tiles, Tk) bool, the keys that take part; all of them by default. A key tile that is read must
            have one.

    Returns: tiles of q with Dv channels, dtype of q, in memory as (B, height, width, L * H, Dv). Differentiable once in
    q, k, v and weights. Deterministic on CPU; on CUDA the gradients of k and v are under
    torch.use_deterministic_algorithms.
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
    """The output in the type that is computed in, and the log-sum-exp (B, L, rows, columns, tokens, H)."""
    attention = choose(q, v)
    out, lse = _forward_shapes(q, k, v, rows, weights, scale, counts, live)
    if counts is not None:  # a tile may read none
        out.zero_()
        lse.zero_()
    queries, results, lse_of_tiles = Rows(q), Rows(out), lse.flatten(0, 3)
    with torch.autocast(q.device.type, enabled=False):
        for chunk in Listed(k, v, Lists(rows, weights, counts, live), out.dtype).chunks(1, attention.in_pieces):
            its_queries = chunk.take("queries", queries)
            found, its_lse = joined(
                [attention.forward(its_queries, *piece.gather(), piece.live, scale) for piece in chunk.pieces()]
            )
            chunk.put(results, found)
            lse_of_tiles[chunk.tiles] = its_lse.transpose(1, 2)
    return out, lse


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
    attention = choose(q, v)
    grad_q, grad_k, grad_v, grad_weights = _backward_shapes(
        grad_out, q, k, v, out, lse, rows, weights, scale, counts, live
    )
    if counts is not None:  # a tile may read none
        grad_q.zero_()
    totals = [x.zero_() if x.dtype == out.dtype else torch.zeros_like(x, dtype=out.dtype) for x in (grad_k, grad_v)]
    upstream, queries, results = Rows(grad_out), Rows(q), Rows(out)
    of_queries, of_keys, of_values = Rows(grad_q), Rows(totals[0]), Rows(totals[1])
    lse_of_tiles, of_weights = lse.flatten(0, 3), None if weights is None else grad_weights.zero_().flatten(0, 2)
    with torch.autocast(q.device.type, enabled=False):
        for chunk in Listed(k, v, Lists(rows, weights, counts, live), out.dtype).chunks(2, attention.in_pieces):
            its_upstream, its_queries = chunk.take("upstream", upstream), chunk.take("queries", queries)
            its_results, its_lse = chunk.take("results", results), chunk.of(lse_of_tiles).transpose(1, 2)
            gradients_of_queries = []
            for piece in chunk.pieces():
                grad_queries, grad_keys, grad_values = attention.backward(
                    its_upstream, its_queries, *piece.gather(), its_results, its_lse, piece.live, scale
                )
                gradients_of_queries.append(grad_queries)
                its_weights = piece.add_gradients(of_keys, grad_keys, of_values, grad_values)
                del grad_keys, grad_values  # as large as what is gathered: not to be held beside the next ones
                if of_weights is not None and its_weights is not None:
                    of_weights[chunk.tiles, piece.entries] = its_weights.to(of_weights.dtype)
            chunk.put(of_queries, functools.reduce(torch.add, gradients_of_queries))
    for grad, total in zip((grad_k, grad_v), totals, strict=True):
        if total is not grad:
            grad.copy_(total)
    return grad_q, grad_k, grad_v, grad_weights


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
    tile_height, tile_width, heads = q.shape[4:7]
    dtype = torch.promote_types(q.dtype, torch.float32)
    out = _empty_map((*q.shape[:7], v.shape[-1]), q, dtype)
    return out, q.new_empty(*q.shape[:4], tile_height * tile_width, heads, dtype=dtype)


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
    grad_weights = q.new_empty(0) if weights is None else weights.new_empty(weights.shape)
    grad_q, grad_k, grad_v = (_empty_gradient(x) for x in (q, k, v))
    return grad_q, grad_k, grad_v, grad_weights


def _empty_gradient(x: Tensor) -> Tensor:
    """In memory like x where x has its channels side by side; else Rows of it would be a copy."""
    grad = torch.empty_like(x)
    return grad if grad.stride(-1) == 1 else _empty_map(x.shape, x, x.dtype)


def _empty_map(shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Tiles that lie in memory as (B, height, width, L * H, channels)."""
    batch, lists, rows, columns, height, width, heads, channels = shape
    empty = like.new_empty((batch, rows, height, columns, width, lists, heads, channels), dtype=dtype)
    return empty.permute(0, 5, 1, 3, 2, 4, 6, 7)


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
