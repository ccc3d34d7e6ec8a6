"""Bi-level routing attention, in the two forms that were published.

The map is cut into regions; mean queries and mean keys pick for every region r the `topk` regions that it reads, and
every token of r attends to all tokens of those regions and no others:

    A = scale * mean_r(q) mean_s(k)^T,   routes[r] = topk_s(A[r]),
    out = proj(softmax(scale * q[r] K[r]^T) V[r] + lepe(v)),   K[r] = concat(k[s] for s in routes[r])

with a depthwise convolution `lepe` of the values. Maps are channel-last throughout: (B, height, width, C).
Source: BiFormer, arXiv 2303.08810, section 3.2. Cost: N * topk * T multiply-adds per channel instead of N * N, for N
tokens in regions of T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionsparse.errors import ConfigError, InputError, did_you_mean
from visionsparse.models.biformer.attention import channel_last, depthwise_conv, join_heads, split_heads
from visionsparse.ops import routed_attention

KV_DOWNSAMPLE_MODES = ("identity", "ada_avgpool", "ada_maxpool", "avgpool", "maxpool")


class Routing(NamedTuple):
    """Which regions each region reads.

    routes: (B, regions, topk) int64, best first; regions are numbered row by row.
    weights: (B, regions, topk) softmax of the chosen affinities (the plain operator does not use them).
    region_size: (height, width) of a region in tokens.
    grid: (rows, columns) of regions; they may hang over the map's right and lower edge.
    """

    routes: Tensor
    weights: Tensor
    region_size: tuple[int, int]
    grid: tuple[int, int]


class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention as in BiFormer-T/S/B and STL: pads before the projection.

    Args:
        dim: channels C of the map.
        num_heads: heads; divides both `qk_dim` and `dim`.
        qk_dim: channels of queries and keys (default `dim`).
        regions_per_side: the map is cut into this many rows and columns of regions.
        topk: regions that each region reads.
        lepe_kernel_size: kernel of the depthwise convolution added to the output; 0 for none.
        auto_pad: zero-pad maps whose sizes don't divide (right and bottom). The padded tokens take part.
        kv_downsample_mode: pooling of each region's keys and values: "identity"; "ada_avgpool" or "ada_maxpool" to
            `kv_per_region` tokens a side; "avgpool" or "maxpool" with kernel and stride `kv_downsample_ratio`.
        soft_routing: multiply the keys and values of a routed region by its routing weight.
        diff_routing: let the gradient of those weights reach queries and keys; needs `soft_routing`.
        param_routing: one more linear layer on the mean queries and keys; needs `diff_routing`.
        param_attention: "qkvo", or "qkv" for no output projection.

    Raises:
        ConfigError: arguments that don't fit together.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qk_dim: int | None = None,
        regions_per_side: int = 7,
        topk: int = 4,
        lepe_kernel_size: int = 5,
        auto_pad: bool = False,
        kv_downsample_mode: str = "identity",
        kv_per_region: int = 4,
        kv_downsample_ratio: int = 4,
        soft_routing: bool = False,
        diff_routing: bool = False,
        param_routing: bool = False,
        param_attention: str = "qkvo",
    ) -> None:
        super().__init__()
        qk_dim = qk_dim or dim
        if num_heads < 1 or qk_dim % num_heads or dim % num_heads:
            raise ConfigError(f"num_heads={num_heads} does not divide qk_dim={qk_dim} and dim={dim}.")
        if not 1 <= topk <= regions_per_side**2:
            raise ConfigError(
                f"topk={topk}, but there are {regions_per_side} x {regions_per_side} = {regions_per_side**2} regions to"
                f" choose from: expected 1 <= topk <= {regions_per_side**2}. Lower topk or raise regions_per_side."
            )
        if kv_downsample_mode not in KV_DOWNSAMPLE_MODES:
            hint = did_you_mean(kv_downsample_mode, KV_DOWNSAMPLE_MODES)
            raise ConfigError(f"kv_downsample_mode={kv_downsample_mode!r} is not known.{hint}")
        if kv_per_region < 1 and kv_downsample_mode.startswith("ada"):
            raise ConfigError(f"kv_per_region={kv_per_region}: {kv_downsample_mode} needs at least 1.")
        if (param_routing and not diff_routing) or (diff_routing and not soft_routing):
            raise ConfigError(
                "param_routing needs diff_routing=True, which needs soft_routing=True: a hard choice has no gradient."
            )
        if param_attention not in ("qkvo", "qkv"):
            raise ConfigError(f"param_attention={param_attention!r}: expected 'qkvo' or 'qkv'.")
        self.num_heads = num_heads
        self.qk_dim = qk_dim
        self.regions_per_side = regions_per_side
        self.topk = topk
        self.auto_pad = auto_pad
        self.kv_downsample_mode = kv_downsample_mode
        self.kv_per_region = kv_per_region
        self.kv_downsample_ratio = kv_downsample_ratio
        self.soft_routing = soft_routing
        self.diff_routing = diff_routing
        self.scale = qk_dim**-0.5  # published: of the full width, not of the head
        self.qkv = nn.Linear(dim, 2 * qk_dim + dim)
        self.router = nn.Linear(qk_dim, qk_dim) if param_routing else nn.Identity()
        self.lepe = depthwise_conv(dim, lepe_kernel_size)
        self.proj = nn.Linear(dim, dim) if param_attention == "qkvo" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same shape. Raises InputError where the map can't be cut into regions."""
        _, height, width, _ = x.shape
        q, k, v = self._project(x)
        out = self._attend(q, k, v, self._route(q, k))
        if self.lepe is not None:
            out = out + channel_last(self.lepe, v)
        return self.proj(out)[:, :height, :width]

    def routing(self, x: Tensor) -> Routing:
        """The regions that each region of x (B, height, width, C) reads."""
        q, k, _ = self._project(x)
        return self._route(q, k)

    def attention(self, x: Tensor) -> Tensor:
        """The attention probabilities (B, heads, regions, T, topk * T of keys), without gradient; large."""
        q, k, v = self._project(x)
        return self._attend(q, k, v, self._route(q, k), return_attention=True)

    def check_size(self, height: int, width: int) -> None:
        """Raises InputError where a map of this size can't be cut into regions."""
        side = self.regions_per_side
        if not self.auto_pad and (height % side or width % side):
            raise InputError(
                f"a map of {height} x {width} does not divide into {side} x {side} regions: use auto_pad=True, or an"
                f" input size that makes the map a multiple of {side}."
            )

    def _project(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values (B, padded height, padded width, channels)."""
        height, width = x.shape[1:3]
        self.check_size(height, width)
        side = self.regions_per_side
        if height % side or width % side:
            # published: before the projection, so a padded token is the projection's bias, and is attended to
            x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        return list(self.qkv(x).split([self.qk_dim, self.qk_dim, self.qkv.out_features - 2 * self.qk_dim], dim=-1))

    def _route(self, q: Tensor, k: Tensor) -> Routing:
        side = self.regions_per_side
        region_size = (q.shape[1] // side, q.shape[2] // side)
        with torch.autocast(q.device.type, enabled=False):
            mean_q, mean_k = region_means(q, region_size), region_means(k, region_size)
            if not self.diff_routing:
                mean_q, mean_k = mean_q.detach(), mean_k.detach()
            if isinstance(self.router, nn.Linear):
                weight, bias = self.router.weight.to(mean_q.dtype), self.router.bias.to(mean_q.dtype)
                mean_q, mean_k = F.linear(mean_q, weight, bias), F.linear(mean_k, weight, bias)
            return choose_regions(mean_q * self.scale, mean_k, self.topk, region_size, (side, side))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, routing: Routing, return_attention: bool = False) -> Tensor:
        region_size = routing.region_size
        k, v, kv_region_size = self._downsample(k, v, region_size)
        out = routed_attention(
            split_heads(q, self.num_heads),
            split_heads(k, self.num_heads),
            split_heads(v, self.num_heads),
            routing.routes[:, None],
            region_size=region_size,
            kv_region_size=kv_region_size,
            route_weights=routing.weights[:, None].to(v.dtype) if self.soft_routing else None,
            scale=self.scale,
            return_attention=return_attention,
        )
        return out[1] if return_attention else join_heads(out)

    def _downsample(self, k: Tensor, v: Tensor, region_size: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Pools keys and values region by region; gives them with their new region size."""
        mode, ratio = self.kv_downsample_mode, self.kv_downsample_ratio
        if mode == "identity" or (not mode.startswith("ada") and ratio == 1):
            return k, v, region_size
        batch, rows, columns = k.shape[0], k.shape[1] // region_size[0], k.shape[2] // region_size[1]
        kv = torch.cat([k, v], dim=-1)
        kv = kv.view(batch, rows, region_size[0], columns, region_size[1], -1).permute(0, 1, 3, 5, 2, 4).flatten(0, 2)
        if mode.startswith("ada"):
            pool = F.adaptive_avg_pool2d if mode == "ada_avgpool" else F.adaptive_max_pool2d
            kv = pool(kv, self.kv_per_region)
        elif min(region_size) < ratio:
            raise InputError(
                f"kv_downsample_ratio={ratio} is larger than the region of {region_size[0]} x {region_size[1]} tokens."
                " Lower it, or use larger maps or fewer regions."
            )
        else:
            kv = F.avg_pool2d(kv, ratio) if mode == "avgpool" else F.max_pool2d(kv, ratio)
        height, width = kv.shape[-2:]
        kv = kv.view(batch, rows, columns, -1, height, width).permute(0, 1, 4, 2, 5, 3)
        kv = kv.reshape(batch, rows * height, columns * width, -1)
        return kv[..., : self.qk_dim], kv[..., self.qk_dim :], (height, width)


class FloorRegionRoutingAttention(BiLevelRoutingAttention):
    """Bi-level routing attention as in `biformer_stl_nchw`: takes any map, pads after the projection.

    A region has floor(height / regions_per_side) rows, so where sizes don't divide there can be more regions
    than regions_per_side on a side. Means are over real tokens; the last regions are filled with zero keys and values.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, *, regions_per_side: int = 7, topk: int = 4, lepe_kernel_size: int = 5
    ) -> None:
        super().__init__(
            dim, num_heads, regions_per_side=regions_per_side, topk=topk, lepe_kernel_size=lepe_kernel_size
        )

    def check_size(self, height: int, width: int) -> None:
        """Raises InputError where a map of this size has fewer rows or columns than regions."""
        side = self.regions_per_side
        if height < side or width < side:
            raise InputError(
                f"a map of {height} x {width} is smaller than {side} x {side} regions: use a larger input or a smaller"
                " regions_per_side."
            )

    def _project(self, x: Tensor) -> list[Tensor]:
        self.check_size(*x.shape[1:3])
        return list(self.qkv(x).chunk(3, dim=-1))

    def _route(self, q: Tensor, k: Tensor) -> Routing:
        height, width = q.shape[1:3]
        region_size = (height // self.regions_per_side, width // self.regions_per_side)
        grid = (-(-height // region_size[0]), -(-width // region_size[1]))
        with torch.autocast(q.device.type, enabled=False):
            mean_q, mean_k = region_means(q.detach(), region_size), region_means(k.detach(), region_size)
            # published: unscaled, which shows in the routing weights alone
            return choose_regions(mean_q, mean_k, self.topk, region_size, grid)


def region_means(x: Tensor, region_size: tuple[int, int]) -> Tensor:
    """Mean of every region's real tokens, in float32 at least: (B, height, width, C) -> (B, regions, C)."""
    x = x.to(torch.promote_types(x.dtype, torch.float32)).permute(0, 3, 1, 2)
    means = F.avg_pool2d(x, region_size, region_size, ceil_mode=True, count_include_pad=False)
    return means.flatten(2).transpose(1, 2)


def choose_regions(
    mean_q: Tensor, mean_k: Tensor, topk: int, region_size: tuple[int, int], grid: tuple[int, int]
) -> Routing:
    """The topk regions of highest affinity for every region: means (B, regions, C), which include the scale."""
    affinity = mean_q @ mean_k.transpose(1, 2)
    values, routes = affinity.topk(topk, dim=-1)
    return Routing(routes, values.softmax(dim=-1), region_size, grid)
