"""Routed attention as plain PyTorch writes it, each form named for how it gets at the routed keys.

A form is a function `prepare(maps, routes, region_size) -> (function, tensors)`: `function(*tensors)` gives
(B, H, height, width, D), and the tensors are what the form's author has the projection make, so that no form pays for
another's layout. Routes change with every image, so their indices and masks are part of the timed call.
Sources: BiFormer, arXiv 2303.08810, whose published code has the two gathers; the others are what one would write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visionsparse.ops.regions import from_regions, to_regions

Size = tuple[int, int]
Prepared = tuple[Callable[..., Tensor], Sequence[Tensor]]


class Maps(NamedTuple):
    """A projection's result (B, height, width, 3 * H * D), read as q, k and v."""

    qkv: Tensor
    heads: int

    def qkv_heads(self) -> list[Tensor]:
        """q, k and v, each (B, H, height, width, D): views with the heads side by side in memory."""
        return [_split_heads(x, self.heads) for x in self.qkv.chunk(3, dim=-1)]


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, height, width, H * D) -> (B, H, height, width, D)."""
    return x.unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)


def published_gather_nhwc(maps: Maps, routes: Tensor, region_size: Size) -> Prepared:
    """torch.gather on keys and values, joint and of all heads, expanded to every query region (published, legacy)."""
    heads, channels = maps.heads, maps.qkv.shape[-1] // 3

    def function(q: Tensor, kv: Tensor) -> Tensor:
        batch, height, width, _ = q.shape
        q, kv = (to_regions(x[:, None], region_size)[:, 0] for x in (q, kv))  # (B, P, T, channels)
        regions, tokens = kv.shape[1:3]
        topk = routes.shape[-1]
        index = routes[:, 0, :, :, None, None].expand(-1, -1, -1, tokens, 2 * channels)
        listed = kv[:, None].expand(-1, regions, -1, -1, -1).gather(2, index)  # (B, P, topk, T, 2 * channels)
        k, v = listed.reshape(batch * regions, topk * tokens, 2 * channels).split(channels, dim=-1)
        q, k, v = (x.reshape(batch * regions, -1, heads, channels // heads).transpose(1, 2) for x in (q, k, v))
        attention = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1)
        out = (attention @ v).view(batch, regions, heads, tokens, -1).transpose(1, 2)
        return from_regions(out, region_size, height, width)

    return function, (maps.qkv[..., :channels], maps.qkv[..., channels:])


def published_gather_nchw(maps: Maps, routes: Tensor, region_size: Size) -> Prepared:
    """torch.gather on keys and on values, expanded to every query region, head by head (published, nchw)."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        height, width = q.shape[2:4]
        q, k, v = (to_regions(x, region_size) for x in (q, k, v))

        def listed(x: Tensor) -> Tensor:
            batch, heads, regions, tokens, channels = x.shape
            index = routes[..., None].expand(batch, heads, -1, -1, tokens * channels)
            rows = x.flatten(3)[:, :, None].expand(-1, -1, regions, -1, -1)
            return rows.gather(3, index).view(batch, heads, regions, -1, channels)

        attention = torch.softmax((q * q.shape[-1] ** -0.5) @ listed(k).mT, dim=-1)
        return from_regions(attention @ listed(v), region_size, height, width)

    return function, maps.qkv_heads()


def advanced_indexing_matmul(maps: Maps, routes: Tensor, region_size: Size) -> Prepared:
    """k[image, head, routes], matmul, softmax, matmul."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, height, width, _ = q.shape
        q, k, v = (to_regions(x, region_size) for x in (q, k, v))
        image = torch.arange(batch, device=routes.device).view(-1, 1, 1, 1)
        head = torch.arange(heads, device=routes.device).view(1, -1, 1, 1)
        keys, values = (x[image, head, routes].flatten(3, 4) for x in (k, v))
        attention = torch.softmax(q.shape[-1] ** -0.5 * q @ keys.mT, dim=-1)
        return from_regions(attention @ values, region_size, height, width)

    return function, maps.qkv_heads()


def index_select_bmm(maps: Maps, routes: Tensor, region_size: Size) -> Prepared:
    """index_select of whole regions from one list of all images' and heads' regions, bmm, softmax, bmm."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        height, width = q.shape[2:4]
        q, keys, values = _selected(q, k, v, routes, region_size)
        shape, q = q.shape, q.flatten(0, 2)
        scores = torch.bmm(q * q.shape[-1] ** -0.5, keys.mT)
        out = torch.bmm(torch.softmax(scores, dim=-1), values)
        return from_regions(out.view(shape), region_size, height, width)

    return function, maps.qkv_heads()


def index_select_sdpa(maps: Maps, routes: Tensor, region_size: Size) -> Prepared:
    """index_select of whole regions as above, then scaled_dot_product_attention."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        height, width = q.shape[2:4]
        q, keys, values = _selected(q, k, v, routes, region_size)
        shape = q.shape
        out = F.scaled_dot_product_attention(q.flatten(0, 2)[:, None], keys[:, None], values[:, None])
        return from_regions(out.view(shape), region_size, height, width)

    return function, maps.qkv_heads()


def _selected(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, region_size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """q by regions (B, H, P, T, D); the listed keys and values (B * H * P, topk * T, D)."""
    q, k, v = (to_regions(x, region_size) for x in (q, k, v))
    batch, heads, regions, _, channels = k.shape
    first = torch.arange(batch * heads, device=routes.device).view(batch, heads, 1, 1) * regions
    rows = (first + routes).flatten()
    shape = (batch * heads * regions, -1, channels)
    keys, values = (x.flatten(0, 2).flatten(1).index_select(0, rows).view(shape) for x in (k, v))
    return q, keys, values


def dense_sdpa_region_mask(maps: Maps, routes: Tensor, region_size: Size) -> Prepared:
    """scaled_dot_product_attention over all pairs, under a mask made of the routes."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        height, width = q.shape[2:4]
        q, k, v = (to_regions(x, region_size) for x in (q, k, v))
        shape, tokens, regions = q.shape, q.shape[3], k.shape[2]
        seen = torch.zeros(*routes.shape[:3], regions, dtype=torch.bool, device=q.device).scatter_(-1, routes, True)
        mask = seen.repeat_interleave(tokens, dim=2).repeat_interleave(tokens, dim=3)
        q, k, v = (x.flatten(2, 3) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return from_regions(out.view(shape), region_size, height, width)

    return function, maps.qkv_heads()


Form = Callable[[Maps, Tensor, Size], Prepared]
BASELINES: dict[str, Form] = {
    "published gather, NHWC": published_gather_nhwc,
    "published gather, NCHW": published_gather_nchw,
    "advanced indexing + matmul": advanced_indexing_matmul,
    "index_select + bmm": index_select_bmm,
    "index_select + SDPA": index_select_sdpa,
    "dense SDPA, region mask": dense_sdpa_region_mask,
}
STRONGEST_PLAIN = "index_select + bmm"
