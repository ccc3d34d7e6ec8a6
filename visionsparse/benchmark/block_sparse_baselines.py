"""Block-sparse attention by what a user would otherwise pick, as functions of q, k and v (B, H, N, D).

Each is made for one mask (1, H, query blocks, key blocks) bool, once: what a mask has to be turned into is not timed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense_sdpa(backend: str | None = None) -> Function:
    """scaled_dot_product_attention over all pairs, by torch's own choice or by the backend of that name."""
    if backend is None:
        return F.scaled_dot_product_attention
    from torch.nn.attention import SDPBackend, sdpa_kernel

    chosen = getattr(SDPBackend, backend)  # no enum of Python

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(chosen):
            return F.scaled_dot_product_attention(q, k, v)

    return function


def dense_sdpa_masked(mask: Tensor, block: int) -> Function:
    """scaled_dot_product_attention over all pairs, under the mask written out for every pair."""
    pairs = mask.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=pairs)

    return function


def gathered_sdpa(mask: Tensor, block: int) -> Function:
    """For each query block, scaled_dot_product_attention over its key blocks, copied together by index_select.

    Takes masks whose rows have one number of blocks, so that all heads go in one call.
    """
    _, heads, query_blocks, key_blocks = mask.shape
    (listed,) = set(mask.sum(-1).flatten().tolist())
    first = torch.arange(heads, device=mask.device).view(heads, 1, 1) * key_blocks
    rows = (first + mask.nonzero()[:, -1].view(heads, query_blocks, listed)).transpose(0, 1).flatten(1)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = (x.reshape(heads * key_blocks, -1) for x in (k, v))
        outs = []
        for q_block, index in zip(q.split(block, dim=2), rows, strict=True):
            k_block, v_block = (x.index_select(0, index).view(1, heads, listed * block, -1) for x in (keys, values))
            outs.append(F.scaled_dot_product_attention(q_block, k_block, v_block))
        return torch.cat(outs, dim=2)

    return function


def compiled_flex(mask: Tensor, block: int) -> Function:
    """torch.compile(flex_attention) with the mask as a BlockMask."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    counts = mask.sum(-1, dtype=torch.int32)
    indices = mask.byte().argsort(dim=-1, descending=True, stable=True).int()
    tokens = mask.shape[-1] * block
    # As partial blocks without a mask_mod: for whole ones torch 2.11 writes C++ that does not compile.
    lists = BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=block, seq_lengths=(tokens, tokens))
    # Named, the number of threads is part of the key of Inductor's cache. Else torch 2.11 takes code from there that
    # was made for another number, and that for fewer threads writes past its buffers.
    compiled = torch.compile(flex_attention, dynamic=False, options={"cpp.threads": torch.get_num_threads()})

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = compiled(q, k, v, block_mask=lists)
        assert isinstance(out, Tensor)  # not its log-sum-exp too
        return out

    return function
