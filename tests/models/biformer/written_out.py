"""The routing operator of BiFormer-T/S/B written out step by step with gathers, as the paper's appendix has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visionsparse.models.biformer.routing import BiLevelRoutingAttention

POOLS = {
    "ada_avgpool": F.adaptive_avg_pool2d,
    "ada_maxpool": F.adaptive_max_pool2d,
    "avgpool": F.avg_pool2d,
    "maxpool": F.max_pool2d,
}


def routing_attention_written_out(attn: BiLevelRoutingAttention, x: Tensor) -> Tensor:
    """What `attn` gives for x (B, height, width, C), by its weights and options."""
    batch, height, width, dim = x.shape
    side, heads, qk_dim = attn.regions_per_side, attn.num_heads, attn.qk_dim
    x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = x.shape[1] // side, x.shape[2] // side  # of one region
    regions = (
        x.view(batch, side, rows, side, columns, dim).transpose(2, 3).flatten(1, 2)
    )  # (B, regions, rows, columns, C)
    q, k, v = attn.qkv(regions).split([qk_dim, qk_dim, dim], dim=-1)

    mean_q, mean_k = q.mean((2, 3)), k.mean((2, 3))
    if not attn.diff_routing:
        mean_q, mean_k = mean_q.detach(), mean_k.detach()
    affinity = attn.router(mean_q) * attn.scale @ attn.router(mean_k).transpose(1, 2)
    values, routes = affinity.topk(attn.topk)

    kv = torch.cat([k, v], dim=-1)
    if attn.kv_downsample_mode != "identity":
        by_size = attn.kv_downsample_mode.startswith("ada")
        pooled = POOLS[attn.kv_downsample_mode](
            kv.flatten(0, 1).permute(0, 3, 1, 2), attn.kv_per_region if by_size else attn.kv_downsample_ratio
        )
        kv = pooled.permute(0, 2, 3, 1).unflatten(0, (batch, -1))
    kv = kv.flatten(2, 3)  # (B, P, key tokens, channels)
    gathered = torch.stack([image[routes[i]] for i, image in enumerate(kv)])  # (B, P, topk, key tokens, channels)
    if attn.soft_routing:
        gathered = gathered * values.softmax(-1)[..., None, None]
    keys, contents = gathered.flatten(2, 3).split([qk_dim, dim], dim=-1)

    per_head = [part.unflatten(-1, (heads, -1)).transpose(2, 3) for part in (q.flatten(2, 3), keys, contents)]
    out = (per_head[0] * attn.scale @ per_head[1].transpose(-1, -2)).softmax(-1) @ per_head[2]
    out = out.transpose(2, 3).flatten(3).view(batch, side, side, rows, columns, dim).transpose(2, 3)
    if attn.lepe is not None:
        v = v.view(batch, side, side, rows, columns, dim).transpose(2, 3).reshape(x.shape)
        out = out.reshape(x.shape) + attn.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return attn.proj(out.reshape(x.shape))[:, :height, :width]
