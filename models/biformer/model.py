"""BiFormer: vision transformer with bi-level routing attention, for classification and as a backbone of four maps.

The net is in `net.py`, its attention in `routing.py` and `attention.py`. Variants: T, S and B; STL and
STL-nchw in Swin-Tiny's layout; the dense-task backbones; `biformer_nano`, ours, for images of 32 x 32.
Source: Zhu et al., CVPR 2023, arXiv 2303.08810.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from visionsparse.layers import LayerNorm2d
from visionsparse.models.biformer.net import BiFormer


class BiFormerBackbone(BiFormer):
    """BiFormer for detection and segmentation: (B, in_chans, height, width) -> one map per stage, strides 4 to 32.

    Every map goes through its own layer norm over channels on its way out; the next stage reads the map before it.
    `num_classes` and `drop_rate` are accepted, as in the published configs, and mean nothing here.
    """

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """x: (B, in_chans, height, width) -> [(B, embed_dims[i], height / 4 / 2**i, width / 4 / 2**i), ...]."""
        return [norm(out) for norm, out in zip(self.out_norms, self.forward_maps(x), strict=True)]

    def _build_outputs(self, embed_dims: list[int], drop_rate: float) -> None:
        self.num_classes = 0
        self.norm = nn.Identity()
        self.head_drop = nn.Identity()
        self.head = nn.Identity()
        self.out_norms = nn.ModuleList(LayerNorm2d(dim, eps=1e-6) for dim in embed_dims)


_TINY = dict(depths=(2, 2, 8, 2), embed_dims=(64, 128, 256, 512))
_SMALL = dict(depths=(4, 4, 18, 4), embed_dims=(64, 128, 256, 512))
_BASE = dict(depths=(4, 4, 18, 4), embed_dims=(96, 192, 384, 768))
_STL = dict(
    depths=(2, 2, 6, 2),
    embed_dims=(96, 192, 384, 768),
    mlp_ratios=4.0,
    pos_embed_kernel_size=0,
    downsampling="patch",
)
_NANO = dict(depths=(2, 2), embed_dims=(64, 192), topks=(4, -2), regions_per_side=4)
_DETECTION = dict(regions_per_side=16, auto_pad=True)


def biformer_tiny(**overrides: Any) -> BiFormer:
    """BiFormer-T: 13.1 M parameters, 2.2 GMACs at 224 x 224."""
    return BiFormer(**{**_TINY, **overrides})


def biformer_small(**overrides: Any) -> BiFormer:
    """BiFormer-S: 25.5 M parameters, 4.5 GMACs at 224 x 224."""
    return BiFormer(**{**_SMALL, **overrides})


def biformer_base(**overrides: Any) -> BiFormer:
    """BiFormer-B: 56.8 M parameters, 9.8 GMACs at 224 x 224."""
    return BiFormer(**{**_BASE, **overrides})


def biformer_stl(**overrides: Any) -> BiFormer:
    """BiFormer in Swin-Tiny's layout: 28.4 M parameters, 4.6 GMACs at 224 x 224."""
    return BiFormer(**{**_STL, **overrides})


def biformer_stl_nchw(**overrides: Any) -> BiFormer:
    """BiFormer-STL with the refactored operator, which takes any input size."""
    return BiFormer(**{**_STL, "operator": "nchw", "topks": (1, 4, 16, -1), **overrides})


def biformer_small_det(**overrides: Any) -> BiFormerBackbone:
    """BiFormer-S as detection backbone, 16 regions per side (segmentation: regions_per_side=8)."""
    return BiFormerBackbone(**{**_SMALL, **_DETECTION, **overrides})


def biformer_base_det(**overrides: Any) -> BiFormerBackbone:
    """BiFormer-B as detection backbone, 16 regions per side (segmentation: regions_per_side=8)."""
    return BiFormerBackbone(**{**_BASE, **_DETECTION, **overrides})


def biformer_nano(**overrides: Any) -> BiFormer:
    """Ours, for images of 32 x 32: a stage whose 4 x 4 regions read 4 each, then one of full attention."""
    return BiFormer(**{**_NANO, **overrides})
