"""Block-sparse attention: a block of queries attends to the blocks of keys that a block mask names.

    out[i] = softmax(scale * q[i] @ k[live(i)].T) @ v[live(i)],   live(i) = {j : block_mask[i // bq, j // bk]}

per image and head; a key that `key_padding_mask` leaves out is live for no query; out[i] = 0 where live(i) is empty.
Source: block-sparse masks as in Sparse Transformers, arXiv 1904.10509, and FlexAttention, arXiv 2412.05496.
Cost: density * Nq * Nk * (D + Dv) multiply-adds, density the share of True in the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionsparse.errors import InputError
from visionsparse.ops.block_lists import BlockLists, as_lists, as_mask, check_lists, check_mask, is_flex
from visionsparse.ops.dispatch import backend, dispatch
from visionsparse.ops.inputs import autocast, check_qkv, check_scale, dtype_name, without_autocast
from visionsparse.ops.regions import cut, uncut
from visionsparse.ops.tiled_attention import tiled_attention
from visionsparse.ops.triton import why_not_attention, why_not_counts
from visionsparse.ops.work import Work, work

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Size = tuple[int, int]


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_mask: Tensor | BlockLists | BlockMask,
    *,
    block_size: Sequence[int] = (64, 64),
    scale: float | None = None,
    key_padding_mask: Tensor | None = None,
) -> Tensor:
    """Attention of every block of queries over the blocks of keys that the mask names for it.

    Args:
        q: (B, H, Nq, D) queries; float16, bfloat16 (both computed in float32), float32 or float64. Under autocast q, k
            and v are cast to its dtype. Any strides; any length, the last block may be shorter.
        k: (B, H, Nk, D) keys, dtype and device of q.
        v: (B, H, Nk, Dv) values, dtype and device of q.
        block_mask: (B or 1, H or 1, ceil(Nq / bq), ceil(Nk / bk)) bool, True = the query block sees the key block; or
            ops.BlockLists of such a mask, which saves building the lists at every call; or FlexAttention's BlockMask
            without partial blocks (under torch.compile turn it to lists before, by ops.BlockLists.from_flex).
        block_size: (bq, bk), tokens of a query block and of a key block.
        scale: of the scores, D ** -0.5 by default.
        key_padding_mask: (B, Nk) bool, True = the key takes part; all do by default.

    Returns: (B, H, Nq, Dv), dtype of q. A query without a live key gives 0, and no gradient. Backend "torch" lays it
        out in memory as (B, Nq, H, Dv), as scaled_dot_product_attention does, so that joining the heads is free.

    Raises: InputError where arguments don't fit together; says what was got, what was expected and what to do.
    """
    q, k, v = autocast(q, k, v)
    block_size = _check_block_size(block_size)
    check_qkv(q, k, v, ("tokens",))
    if v.shape[2] != k.shape[2]:
        raise InputError(f"v has {v.shape[2]} tokens but k {k.shape[2]}: give one value per key.")
    lists_or_mask = _check_block_mask(block_mask, q, k, block_size)
    _check_key_padding(key_padding_mask, k)
    scale = q.shape[-1] ** -0.5 if scale is None else check_scale(scale)
    with without_autocast(q.device.type):
        return dispatch(
            "block_sparse_attention",
            q=q,
            k=k,
            v=v,
            block_mask=lists_or_mask,
            block_size=block_size,
            scale=scale,
            key_padding_mask=key_padding_mask,
        )


@work("block_sparse_attention")
def _work(q: Tensor, k: Tensor, v: Tensor, block_mask: Tensor | BlockLists, block_size: Size, **_: object) -> Work:
    """Pairs in blocks that are seen, padding or not."""
    mask = as_mask(block_mask).expand(*q.shape[:2], -1, -1)
    of_q, of_k = (
        torch.tensor([min(size, tokens - start) for start in range(0, tokens, size)], device=mask.device)
        for tokens, size in zip((q.shape[2], k.shape[2]), block_size, strict=True)
    )
    pairs, a_pair = int((mask * of_q[:, None] * of_k).sum()), q.shape[-1] + v.shape[-1]
    return Work(done=pairs * a_pair, dense=q[..., 0].numel() * k.shape[2] * a_pair)


@backend("block_sparse_attention", "reference")
def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_mask: Tensor | BlockLists,
    block_size: Size,
    scale: float,
    key_padding_mask: Tensor | None,
) -> Tensor:
    """The formula over all pairs."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    query_block = torch.arange(q.shape[2], device=q.device) // block_size[0]
    key_block = torch.arange(k.shape[2], device=q.device) // block_size[1]
    live = as_mask(block_mask)[:, :, query_block][..., key_block]
    if key_padding_mask is not None:
        live = live & key_padding_mask[:, None, None]
    scores = (scale * q.to(dtype) @ k.to(dtype).mT).masked_fill(~live, torch.finfo(dtype).min)
    attention = torch.softmax(scores, dim=-1) * live  # the product makes rows without a live key 0
    return (attention @ v.to(dtype)).to(q.dtype)


@backend("block_sparse_attention", "torch")
def _torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_mask: Tensor | BlockLists,
    block_size: Size,
    scale: float,
    key_padding_mask: Tensor | None,
) -> Tensor:
    """Chunks of query blocks with equally many key blocks, gathered into the cache: see tiled_attention."""
    batch, heads, num_queries, _ = q.shape
    tiles_q, tiles_k, tiles_v = _to_tiles(q, block_size[0]), _to_tiles(k, block_size[1]), _to_tiles(v, block_size[1])
    live = _live_keys(k, block_size[1], key_padding_mask)
    if key_padding_mask is not None and live is not None:
        block_mask = as_mask(block_mask) & live.any(-1)[:, :, None]  # a block of padding alone is not worth reading
    lists = as_lists(block_mask)
    out = tiled_attention(
        tiles_q,
        tiles_k,
        tiles_v,
        lists.indices.expand(batch, heads, -1, -1),
        None,
        scale,
        lists.counts.expand(batch, heads, -1),
        None if live is None else live.expand(batch, heads, -1, -1),
    )
    return uncut(out, num_queries, 1)[:, :, :, 0]


def _why_not_triton(q: Tensor, k: Tensor, v: Tensor, **_: object) -> str | None:
    return why_not_attention(q, v) or why_not_counts(queries_of_a_head=q.shape[2], keys_of_a_head=k.shape[2])


@backend("block_sparse_attention", "triton", why_not=_why_not_triton)
def _triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_mask: Tensor | BlockLists,
    block_size: Size,
    scale: float,
    key_padding_mask: Tensor | None,
) -> Tensor:
    """Listed keys and values read where they lie: see triton/attention.py."""
    from visionsparse.ops.triton import block_sparse_attention as kernels

    lists = as_lists(block_mask)
    backward = lists.inverted
    return kernels.block_sparse_attention(
        q,
        k,
        v,
        lists.counts,
        lists.indices,
        backward.counts,
        backward.indices,
        key_padding_mask,
        block_size,
        scale,
    )


def _to_tiles(x: Tensor, size: int) -> Tensor:
    """(B, H, N, D) -> (B, H, ceil(N / size), 1, size, 1, 1, D): a map of one column, with lists for each head."""
    return cut(x[:, :, :, None], (size, 1), lists=x.shape[1])


def _live_keys(k: Tensor, size: int, key_padding_mask: Tensor | None) -> Tensor | None:
    """(B or 1, 1, key blocks, size) bool, the keys that exist and take part; None where all do."""
    tokens = k.shape[2]
    if key_padding_mask is None:
        if tokens % size == 0:
            return None
        key_padding_mask = torch.ones(1, tokens, dtype=torch.bool, device=k.device)
    live = F.pad(key_padding_mask, (0, -tokens % size))
    return live.view(live.shape[0], 1, -(-tokens // size), size)


def _check_block_size(block_size: Any) -> Size:
    if not isinstance(block_size, (tuple, list)) or len(block_size) != 2:
        raise InputError(f"block_size is {block_size!r}: give (queries, keys) of a block.")
    if any(isinstance(extent, float) or extent < 1 for extent in block_size):
        raise InputError(f"block_size is {tuple(block_size)}: give whole numbers of queries and keys of at least 1.")
    return block_size[0], block_size[1]


def _check_block_mask(block_mask: Any, q: Tensor, k: Tensor, block_size: Size) -> Tensor | BlockLists:
    """The mask or lists, shown to fit."""
    if is_flex(block_mask):
        if tuple(block_mask.BLOCK_SIZE) != block_size:
            raise InputError(
                f"block_mask has blocks of {tuple(block_mask.BLOCK_SIZE)} but block_size is {block_size}:"
                f" give block_size={tuple(block_mask.BLOCK_SIZE)}."
            )
        block_mask = BlockLists.from_flex(block_mask)
    if isinstance(block_mask, BlockLists):
        check_lists(block_mask)
        shape, device = (*block_mask.counts.shape, block_mask.num_key_blocks), block_mask.counts.device
    else:
        check_mask(block_mask)
        shape, device = tuple(block_mask.shape), block_mask.device
    batch, heads = q.shape[:2]
    if device != q.device:
        raise InputError(f"block_mask is on {device} but q on {q.device}: move them to one device.")
    if shape[0] not in (1, batch) or shape[1] not in (1, heads):
        raise InputError(
            f"block_mask is for {shape[0]} images and {shape[1]} heads but q has {batch} and {heads}:"
            f" give ({batch} or 1, {heads} or 1, query blocks, key blocks)."
        )
    for name, tokens, size, blocks in zip("qk", (q.shape[2], k.shape[2]), block_size, shape[2:], strict=True):
        expected = -(-tokens // size)
        if blocks != expected:
            raise InputError(
                f"block_mask has {blocks} blocks for {name} but its {tokens} tokens make {expected} blocks of {size}:"
                " give a row for every query block and a column for every key block."
            )
    return block_mask


def _check_key_padding(key_padding_mask: Any, k: Tensor) -> None:
    if key_padding_mask is None:
        return
    if key_padding_mask.dtype != torch.bool:
        raise InputError(
            f"key_padding_mask is {dtype_name(key_padding_mask.dtype)}: give bool, True where a key takes part."
        )
    if key_padding_mask.shape != (k.shape[0], k.shape[2]):
        raise InputError(
            f"key_padding_mask is {tuple(key_padding_mask.shape)} but k has {k.shape[0]} images of {k.shape[2]} tokens:"
            f" give ({k.shape[0]}, {k.shape[2]})."
        )
    if key_padding_mask.device != k.device:
        raise InputError(
            f"key_padding_mask is on {key_padding_mask.device} but k on {k.device}: move them to one device."
        )
