"""The block of BiFormer (positional convolution, attention, MLP), its stages, and the convolutions between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionsparse.errors import InputError
from visionsparse.layers import DropPath
from visionsparse.models.biformer.attention import channel_last, depthwise_conv
from visionsparse.models.biformer.routing import BiLevelRoutingAttention


class MLP(nn.Module):
    """Linear, (depthwise 3 x 3 convolution), GELU, linear, on a channel-last map."""

    def __init__(self, dim: int, hidden_dim: int, *, has_dwconv: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = depthwise_conv(hidden_dim, 3 if has_dwconv else 0)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same shape."""
        x = self.fc1(x)
        if self.dwconv is not None:
            x = channel_last(self.dwconv, x)
        return self.fc2(self.act(x))


class Block(nn.Module):
    """x + pos_embed(x), then attention and MLP, each with layer norm, residual, layer scale and drop path.

    Args:
        dim: channels C.
        attn: the attention, a module on channel-last maps.
        mlp_ratio: hidden width of the MLP over C.
        pos_embed_kernel_size: kernel of the depthwise convolution before the attention; 0 for none.
        pre_norm: normalise what a branch reads; False normalises the sum after it.
        layer_scale_init_value: start of the factors per channel of each branch; 0 or less for no factors.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        *,
        mlp_ratio: float,
        pos_embed_kernel_size: int = 0,
        mlp_dwconv: bool = False,
        pre_norm: bool = True,
        layer_scale_init_value: float = -1.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.pos_embed = depthwise_conv(dim, pos_embed_kernel_size)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(mlp_ratio * dim), has_dwconv=mlp_dwconv)
        self.drop_path = DropPath(drop_path_rate)
        self.pre_norm = pre_norm
        has_scale = layer_scale_init_value > 0
        self.gamma1 = nn.Parameter(torch.full((dim,), float(layer_scale_init_value))) if has_scale else None
        self.gamma2 = nn.Parameter(torch.full((dim,), float(layer_scale_init_value))) if has_scale else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, height, width, C) -> the same shape."""
        if self.pos_embed is not None:
            x = x + channel_last(self.pos_embed, x)
        x = self._add_branch(x, self.attn, self.norm1, self.gamma1)
        return self._add_branch(x, self.mlp, self.norm2, self.gamma2)

    def _add_branch(self, x: Tensor, branch: nn.Module, norm: nn.Module, gamma: Tensor | None) -> Tensor:
        out = branch(norm(x) if self.pre_norm else x)
        if gamma is not None:
            out = gamma * out
        x = x + self.drop_path(out)
        return x if self.pre_norm else norm(x)


class Stage(nn.Module):
    """Down-sampling, then blocks: (B, C_in, height, width) -> (B, C, smaller height, smaller width)."""

    def __init__(self, number: int, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.number = number
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C_in, height, width). Raises InputError where the map does not fit the attention's regions."""
        x = self.downsample(x)
        self._check_size(*x.shape[2:])
        x = x.permute(0, 2, 3, 1).contiguous()
        for block in self.blocks:
            is_recomputed = self.grad_checkpointing and self.training
            x = checkpoint(block, x, use_reentrant=False) if is_recomputed else block(x)
        return x.permute(0, 3, 1, 2)

    def _check_size(self, height: int, width: int) -> None:
        attn = self.blocks[0].attn if self.blocks else None
        if isinstance(attn, BiLevelRoutingAttention):
            try:
                attn.check_size(height, width)
            except InputError as error:
                raise InputError(f"stage {self.number}: {error}") from None


def overlapping_stem(in_chans: int, dim: int) -> nn.Sequential:
    """BiFormer-T/S/B's stem, stride 4: two 3 x 3 convolutions, no activation at the end."""
    return nn.Sequential(
        nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1),
        nn.BatchNorm2d(dim // 2),
        nn.GELU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        nn.BatchNorm2d(dim),
    )


def overlapping_downsample(in_dim: int, dim: int) -> nn.Sequential:
    """Between BiFormer-T/S/B's stages, stride 2: a 3 x 3 convolution, odd sizes round up."""
    return nn.Sequential(nn.Conv2d(in_dim, dim, 3, stride=2, padding=1), nn.BatchNorm2d(dim))


def patch_stem(in_chans: int, dim: int) -> nn.Sequential:
    """STL's stem, stride 4: non-overlapping 4 x 4 patches."""
    return nn.Sequential(nn.Conv2d(in_chans, dim, 4, stride=4), nn.BatchNorm2d(dim))


def patch_downsample(in_dim: int, dim: int) -> nn.Sequential:
    """Between STL's stages, stride 2: normalisation first, then non-overlapping 2 x 2 patches."""
    return nn.Sequential(nn.BatchNorm2d(in_dim), nn.Conv2d(in_dim, dim, 2, stride=2))
