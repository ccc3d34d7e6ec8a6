"""Attention of tiles by oneDNN's products, a tile at a time: the forward pass of one head where lists are long.

    s = scale * q K^T,  p = softmax(s),  out = p V,  lse = max(s) - log(max(p)),  as max(p) = exp(max(s) - lse)

torch's fused attention multiplies by MKL, which does without AVX-512 on a CPU of AMD: a matmul of 2,048 x 2,048 runs at
111 GFLOP/s on a Zen 5 core, oneDNN's at 262. On Zen 4, which takes two steps for 512 bits, it is 85 and 109, and small
products are slower than MKL's. What torch has of oneDNN in float32 is the product of a linear layer, as Inductor calls
it, for one pair of matrices: each call must be large enough to repay itself and its threads. Its second matrix must be
one piece of memory: with gaps, as where heads lie side by side, oneDNN takes a loop that is 600 times slower.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from visionsparse.ops.cpu import cpu_facts

# Measured (two Zen 5 cores) against fused attention, 64 channels, gathering and all. 64 queries over 832 keys: 1.2
# times as fast on one thread, 0.8 on two; over 1,024 keys 0.9 on two; over 2,048 1.3 and 1.1; over 4,096 1.4 and 1.25.
# 128 queries over 384 keys 1.2 and 0.9; over 832 keys 1.4 and 1.1; over 2,048 1.5 and 1.4.
_LEAST_WORK = 3 << 20  # multiply-adds of a product for each thread
_MOST_SCORES = 1 << 20  # of a tile, which are all held at once: 4 MiB


def pays(q: Tensor, keys: Tensor) -> bool:
    """Whether this form takes such tiles and is the faster one; asks for shapes alone."""
    heads, scores = q.shape[1], q.shape[-2] * keys.shape[-2]
    fits = heads == 1 and _LEAST_WORK * torch.get_num_threads() <= scores * q.shape[-1] and scores <= _MOST_SCORES
    return fits and q.dtype == torch.float32 and _has_what_mkl_leaves()


@functools.cache
def _has_what_mkl_leaves() -> bool:
    """Whether oneDNN uses AVX-512 here, MKL doesn't, and it pays: on AMD's Zen 5, the first of theirs with AVX-VNNI."""
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    facts = cpu_facts()
    zen5 = str(facts.get("cpu_name")).startswith("AMD") and bool(facts.get("avx_vnni"))
    return avx512 and zen5 and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_attention(
    q: Tensor, keys: Tensor, values: Tensor, live: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Arguments and results of tile_attention's forward passes, of one head, in float32."""
    tiles, heads, tokens, _ = q.shape
    out = q.new_empty(tiles, heads, tokens, values.shape[-1])
    largest_score, largest_share = q.new_empty(2, tiles, heads, tokens)
    of_tiles = (x.squeeze(1).unbind() for x in (q * scale, keys.mT, values, out, largest_score, largest_share))
    for tile, (queries, its_keys, its_values, result, score, share) in enumerate(zip(*of_tiles, strict=True)):
        scores = onednn_product(queries, its_keys)
        if live is not None:
            scores.masked_fill_(~live[tile], float("-inf"))
        torch.amax(scores, -1, out=score)
        torch.softmax(scores, -1, out=scores)
        torch.amax(scores, -1, out=share)
        result.copy_(onednn_product(scores, its_values))
        del scores  # the next ones take its memory, which is in the cache
    return out, largest_score - largest_share.log_()


def onednn_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of two float32 matrices."""
    return torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")
