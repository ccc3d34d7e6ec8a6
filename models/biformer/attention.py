"""Full attention, as in BiFormer's last stage, and the small pieces that all its attentions share.

Maps are channel-last: (B, height, width, C).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from visionsparse.errors import ConfigError


class FullAttention(nn.Module):
    """Attention of every token to every token, with an optional depthwise convolution beside it.

    Args:
        dim: channels C of the map.
        num_heads: heads. published: 8 in the last stage, whatever `head_dim` says.
        lepe_kernel_size: kernel of the depthwise convolution added to the output; 0 for none.
        lepe_on: what the convolution sees. published: the "input" in BiFormer-T/S/B and STL, the "value" in STL-nchw.
    """

    def __init__(self, dim: int, num_heads: int = 8, *, lepe_kernel_size: int = 5, lepe_on: str = "input") -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(f"num_heads={num_heads} does not divide dim={dim}.")
        if lepe_on not in ("input", "value"):
            raise ConfigError(f"lepe_on={lepe_on!r}: expected 'input' or 'value'.")
        self.num_heads = num_heads
        self.lepe_on = lepe_on
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.lepe = depthwise_conv(dim, lepe_kernel_size)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same shape."""
        _, height, width, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        heads = [split_heads(part, self.num_heads).flatten(2, 3) for part in (q, k, v)]  # (B, heads, tokens, C/heads)
        out = join_heads(F.scaled_dot_product_attention(*heads).unflatten(2, (height, width)))
        if self.lepe is not None:
            out = out + channel_last(self.lepe, x if self.lepe_on == "input" else v)
        return self.proj(out)


class ConvolutionStandIn(nn.Module):
    """What a block holds in place of attention for topk 0: pointwise, depthwise 5 x 5 and pointwise convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pointwise_in = nn.Conv2d(dim, dim, 1)
        self.depthwise = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.pointwise_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same shape."""
        x = self.depthwise(self.pointwise_in(x.permute(0, 3, 1, 2)))
        return self.pointwise_out(x).permute(0, 2, 3, 1)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, height, width, C) -> (B, heads, height, width, C / heads), a view; heads are consecutive channels."""
    return x.unflatten(-1, (num_heads, -1)).permute(0, 3, 1, 2, 4)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, height, width, C / heads) -> (B, height, width, C)."""
    return x.permute(0, 2, 3, 1, 4).flatten(3)


def depthwise_conv(dim: int, kernel_size: int) -> nn.Conv2d | None:
    """A depthwise convolution that keeps the map's size, or None for kernel size 0."""
    if kernel_size == 0:
        return None
    if kernel_size < 0 or kernel_size % 2 == 0:
        raise ConfigError(f"a depthwise kernel of size {kernel_size}: expected an odd number, or 0 for none.")
    return nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)


def channel_last(module: nn.Module, x: Tensor) -> Tensor:
    """Applies a channel-first module to a channel-last map."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
