"""Routed attention as dense attention under a mask: faster where maps are small and much of them is routed.

    out = softmax(scale * q k^T + log(c)) v,   c[i, j] = how often the region of query i lists the region of key j

Products over regions of a few tokens are too small to run fast, and cutting a map into regions costs as much as they
do; this form multiplies more and does neither, as the mask is laid out in the order of the map's tokens.
Cost: Nq * Nkv * (D + Dv) multiply-adds; a mask of Nq * Nkv numbers an image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]

# Measured (one EPYC core, heads of 32) against the chunked form, forward / forward + backward: at 14 x 14 tokens in 49
# regions of 4 it takes 0.6 / 0.7 of the time with 16 regions routed, 0.8 / 0.95 with 8, 1.0 / 1.2 with 2; with regions
# of 16 tokens 1.15 / 1.2 even where half is routed; on maps of 1,024 tokens 1.65 / 1.15 with a quarter routed.
_MAX_TOKENS = 256
_MAX_TOKENS_OF_A_REGION = 4
_SHARE_FROM = 4  # one region in so many


def pays(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, region_size: Size, kv_region_size: Size) -> bool:
    """Whether this form takes such inputs and is the faster one; asks for shapes alone."""
    (height, width), (kv_height, kv_width) = q.shape[2:4], k.shape[2:4]
    sides = ((height, width, region_size), (kv_height, kv_width, kv_region_size))
    fills = all(y % size[0] == 0 and x % size[1] == 0 for y, x, size in sides)  # else zeros take part in the softmax
    small = all(y * x <= _MAX_TOKENS and size[0] * size[1] <= _MAX_TOKENS_OF_A_REGION for y, x, size in sides)
    if not (fills and small and q.device.type == "cpu" and q.shape[-1] == v.shape[-1] and routes.shape[1] == 1):
        return False
    kv_regions = kv_height * kv_width // (kv_region_size[0] * kv_region_size[1])
    return _SHARE_FROM * routes.shape[3] >= kv_regions


def masked_routes(
    q: Tensor, k: Tensor, v: Tensor, routes: Tensor, region_size: Size, kv_region_size: Size, scale: float
) -> Tensor:
    """Arguments and result of ops.routed_attention, where `pays`."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    region, kv_region = _region_of_token(q, region_size), _region_of_token(k, kv_region_size)
    kv_regions = k.shape[2] * k.shape[3] // (kv_region_size[0] * kv_region_size[1])
    counts = torch.zeros(*routes.shape[:3], kv_regions, dtype=torch.int64, device=q.device)
    counts = counts.scatter_add(3, routes.long(), counts.new_ones(()).expand(routes.shape))
    logs = torch.arange(routes.shape[3] + 1, dtype=dtype, device=q.device).log()  # once for all: log(0) is slow
    bias = logs.index_select(0, counts.flatten()).view(counts.shape).index_select(3, kv_region).index_select(2, region)
    tokens_q, tokens_k, tokens_v = (x.flatten(2, 3).to(dtype) for x in (q, k, v))
    out = F.scaled_dot_product_attention(tokens_q, tokens_k, tokens_v, attn_mask=bias, scale=scale)
    out = out.to(q.dtype).transpose(1, 2).contiguous()  # a copy only where q is head-major
    return out.transpose(1, 2).unflatten(2, q.shape[2:4])


def _region_of_token(x: Tensor, region_size: Size) -> Tensor:
    """(height * width,) int64, of a map that its regions fill."""
    rows = torch.arange(x.shape[2], device=x.device) // region_size[0]
    columns = torch.arange(x.shape[3], device=x.device) // region_size[1]
    return (rows[:, None] * (x.shape[3] // region_size[1]) + columns).flatten()
