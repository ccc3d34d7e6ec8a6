"""Block-sparse attention on a GPU: a block of queries looks at the key blocks on its list.

Lists are padded: `counts` (B or 1, H or 1, query blocks) int32, how many key blocks a query block sees, and `indices`
(B or 1, H or 1, query blocks, longest) int32, which (what lies past the count is not read). The inverted lists say of
each key block which query blocks see it: (B or 1, H or 1, key blocks[, longest]). Position p of a list is token
p % size of its block p // size. An empty list gives 0, and zero gradients.
"""

# What a jit function takes has no Python type:
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionsparse.ops.triton.attention import INTERPRETED
from visionsparse.ops.triton.launch import Address, attention_backward, attention_forward

_library = torch.library.Library("visionsparse", "FRAGMENT")
_library.define(
    "block_sparse_flash(Tensor q, Tensor k, Tensor v, Tensor counts, Tensor indices, Tensor inverted_counts,"
    " Tensor inverted_indices, Tensor? key_padding_mask, SymInt[] block_size, float scale) -> (Tensor, Tensor)"
)
_library.define(
    "block_sparse_flash_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor counts, Tensor indices,"
    " Tensor inverted_counts, Tensor inverted_indices, Tensor? key_padding_mask, Tensor out, Tensor lse,"
    " SymInt[] block_size, float scale) -> (Tensor, Tensor, Tensor)"
)


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    counts: Tensor,
    indices: Tensor,
    inverted_counts: Tensor,
    inverted_indices: Tensor,
    key_padding_mask: Tensor | None,
    block_size: tuple[int, int],
    scale: float,
) -> Tensor:
    """Attention of every query block over its listed key blocks.

    Args:
        q, k, v: (B, H, Nq, D), (B, H, Nk, D), (B, H, Nk, Dv); float16, bfloat16 or float32, widths up to 256.
        counts, indices, inverted_counts, inverted_indices: see the module's docstring; each block at most once a list.
        key_padding_mask: (B, Nk) bool, True where the key takes part; or None.
        block_size: tokens of a query block and of a key block; the last ones may be shorter.
        scale: of the scores.

    Returns: (B, H, Nq, Dv), dtype of q. Differentiable once in q, k and v; deterministic.
    """
    lists = (counts, indices, inverted_counts, inverted_indices)
    out, _ = torch.ops.visionsparse.block_sparse_flash(q, k, v, *lists, key_padding_mask, block_size, scale)
    return out


@triton.jit
def _own(image, head, block, lanes, operands):
    size, num_rows, mask_ptr, mask_stride = operands[0]
    row = block * size + lanes
    readable = (lanes < size) & (row < num_rows)
    counts = readable
    if mask_ptr is not None:
        counts = readable & (tl.load(mask_ptr + image.to(tl.int64) * mask_stride + row, mask=readable, other=0) != 0)
    return row, readable, counts


@triton.jit
def _length(image, head, block, operands):
    counts_ptr, _, stride_b, stride_h, _, _, _ = operands[2]
    return tl.load(counts_ptr + image.to(tl.int64) * stride_b + head * stride_h + block) * operands[1][0]


@triton.jit
def _listed(image, head, block, start, lanes, operands):
    size, num_rows, mask_ptr, mask_stride = operands[1]
    _, indices_ptr, _, _, stride_b, stride_h, stride_block = operands[2]
    indices_ptr += image.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h + block.to(tl.int64) * stride_block
    if size % lanes.shape[0] == 0:  # the tile lies in one block: rows follow each other, and one number is read
        row = tl.load(indices_ptr + start // size) * size + start % size + lanes
        readable = row < num_rows
    else:
        positions = start + lanes
        in_list = positions < _length(image, head, block, operands)
        row = tl.load(indices_ptr + positions // size, mask=in_list, other=0) * size + positions % size
        readable = in_list & (row < num_rows)
    if mask_ptr is not None:
        readable &= tl.load(mask_ptr + image.to(tl.int64) * mask_stride + row, mask=readable, other=0) != 0
    return row, readable, readable, 1.0


def addresses(
    own: Tensor,
    listed: Tensor,
    counts: Tensor,
    indices: Tensor,
    own_size: int,
    listed_size: int,
    own_mask: Tensor | None = None,
    listed_mask: Tensor | None = None,
) -> Address:
    """Of queries `own` over keys `listed`, or of keys over the queries that list them; contiguous int32 lists."""
    lists = (counts, indices, *_strides(counts), *_strides(indices), indices.stride(2))
    return Address(
        _own,
        _length,
        _listed,
        (_rows(own, own_size, own_mask), _rows(listed, listed_size, listed_mask), lists),
        groups=counts.shape[2],
        tokens=own_size,
        longest=indices.shape[3] * listed_size,
    )


def _rows(x: Tensor, size: int, mask: Tensor | None) -> tuple[Any, ...]:
    # The size is a constant of the kernel (there are few), so that a tile inside one block is known to be so.
    return size if INTERPRETED else tl.constexpr(size), x.shape[2], mask, 0 if mask is None else mask.stride(0)


def _strides(x: Tensor) -> tuple[int, int]:
    """Of image and head: 0 where one list serves all."""
    return x.stride(0) if x.shape[0] > 1 else 0, x.stride(1) if x.shape[1] > 1 else 0


def block_sparse_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    counts: Tensor,
    indices: Tensor,
    key_padding_mask: Tensor | None,
    block_size: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Arguments of `block_sparse_attention` -> its result and the log-sum-exp (base 2), (B, H, Nq) float32."""
    out, mask = _empty(q, v.shape[3]), _bytes(key_padding_mask)
    address = addresses(q, k, *_lists(counts, indices), block_size[0], block_size[1], listed_mask=mask)
    return out, attention_forward(q, k, v, address, scale, out)


def block_sparse_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    counts: Tensor,
    indices: Tensor,
    inverted_counts: Tensor,
    inverted_indices: Tensor,
    key_padding_mask: Tensor | None,
    out: Tensor,
    lse: Tensor,
    block_size: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, from what `block_sparse_forward` gave."""
    grads, mask = (_empty(q, q.shape[3]), _empty(k, k.shape[3]), _empty(v, v.shape[3])), _bytes(key_padding_mask)
    query_size, key_size = block_size
    address = addresses(q, k, *_lists(counts, indices), query_size, key_size, listed_mask=mask)
    lists = _lists(inverted_counts, inverted_indices)
    inverted = addresses(k, q, *lists, key_size, query_size, own_mask=mask)
    attention_backward(grad_out, q, k, v, out, lse, address, inverted, scale, grads)
    return grads


def _lists(counts: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    return counts.int().contiguous(), indices.int().contiguous()


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.contiguous().view(torch.uint8)


def _empty(x: Tensor, channels: int) -> Tensor:
    """(B, H, N, channels), in memory as (B, N, H, channels), so that joining the heads costs no copy."""
    batch, heads, rows, _ = x.shape
    return x.new_empty(batch, rows, heads, channels).transpose(1, 2)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    counts: Tensor,
    indices: Tensor,
    inverted_counts: Tensor,
    inverted_indices: Tensor,
    key_padding_mask: Tensor | None,
    block_size: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    return block_sparse_forward(q, k, v, counts, indices, key_padding_mask, block_size, scale)


def _forward_shapes(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty(q, v.shape[3]), q.new_empty(q.shape[:3], dtype=torch.float32)


def _backward_shapes(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(q, q.shape[3]), _empty(k, k.shape[3]), _empty(v, v.shape[3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.block_size, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
    grads = torch.ops.visionsparse.block_sparse_flash_backward(grad_out, *saved, ctx.block_size, ctx.scale)
    return *grads, *[None] * 7


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "Attention has no second derivative on the triton backend: call it under ops.use_backend('reference')."
    )


_library.impl("block_sparse_flash", _forward, "CompositeExplicitAutograd")
_library.impl("block_sparse_flash_backward", block_sparse_backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionsparse::block_sparse_flash", _forward_shapes, lib=_library)
torch.library.register_fake("visionsparse::block_sparse_flash_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("visionsparse::block_sparse_flash", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd("visionsparse::block_sparse_flash_backward", _refuse_second_derivative, lib=_library)
