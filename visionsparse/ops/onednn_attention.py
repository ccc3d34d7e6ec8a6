"""Attention of tiles by oneDNN's products, a tile and a head at a time: the forward pass where lists are long.

    s = scale * q K^T,  p = softmax(s),  out = p V,  lse = max(s) - log(max(p)),  as max(p) = exp(max(s) - lse)

torch's fused attention multiplies by MKL, which does without AVX-512 on a CPU of AMD: a matmul of 2,048 x 2,048 runs at
111 GFLOP/s on an EPYC core, oneDNN's at 262. What torch has of oneDNN in float32 is the product of a linear layer, as
Inductor calls it, for one pair of matrices: each call must be large enough to repay itself and its threads.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from visionsparse.ops.cpu import cpu_facts

# Measured (two EPYC cores) against fused attention, 64 channels, gathering and all. 64 queries over 832 keys: 1.2 times
# as fast on one thread, 0.8 on two; over 1,024 keys 0.9 on two; over 2,048 1.3 and 1.1; over 4,096 1.4 and 1.25.
# 128 queries over 384 keys 1.2 and 0.9; over 832 keys 1.4 and 1.1; over 2,048 1.5 and 1.4.
_LEAST_WORK = 3 << 20  # multiply-adds of a product for each thread
_MOST_SCORES = 1 << 20  # of a tile and head, which are all held at once: 4 MiB


def pays(q: Tensor, keys: Tensor) -> bool:
    """Whether this form takes such tiles and is the faster one; asks for shapes alone."""
    scores = q.shape[-2] * keys.shape[-2]
    large_enough = scores * q.shape[-1] >= _LEAST_WORK * torch.get_num_threads()
    return large_enough and scores <= _MOST_SCORES and q.dtype == torch.float32 and _has_what_mkl_leaves()


@functools.cache
def _has_what_mkl_leaves() -> bool:
    """Whether oneDNN uses AVX-512 here and MKL doesn't."""
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    amd = str(cpu_facts().get("cpu_name")).startswith("AMD")
    return avx512 and amd and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_attention(
    q: Tensor, keys: Tensor, values: Tensor, live: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Arguments and results of tile_attention's forward passes, in float32; any strides."""
    tiles, heads, tokens, _ = q.shape
    out = q.new_empty(tiles, tokens, heads, values.shape[-1]).transpose(1, 2)
    largest_score, largest_share = q.new_empty(2, tiles, heads, tokens)
    scaled = torch.mul(q, scale, out=q.new_empty(q.shape))
    of_tiles = (x.unbind() for x in (scaled, keys.mT, values, out, largest_score, largest_share))
    for tile, of_tile in enumerate(zip(*of_tiles, strict=True)):
        dead = None if live is None else ~live[tile]
        of_heads = (x.unbind() for x in of_tile)
        for queries, its_keys, its_values, result, score, share in zip(*of_heads, strict=True):
            scores = onednn_product(queries, its_keys)
            if dead is not None:
                scores.masked_fill_(dead, float("-inf"))
            torch.amax(scores, -1, out=score)
            torch.softmax(scores, -1, out=scores)
            torch.amax(scores, -1, out=share)
            result.copy_(onednn_product(scores, its_values))
            del scores  # the next ones take its memory, which is in the cache
    return out, largest_score - largest_share.log_()


def onednn_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of two float32 matrices."""
    return torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")
