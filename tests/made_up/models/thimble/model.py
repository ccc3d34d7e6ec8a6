"""Thimble: a convolution a stage, then the mean and a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionsparse.errors import InputError


class Thimble(nn.Module):
    """(B, in_chans, height, width) -> (B, num_classes) logits."""

    def __init__(
        self,
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (8, 16),
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.global_pool = num_classes, global_pool
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.grad_checkpointing = False
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, dim, 2, stride=2), nn.GELU(), nn.Conv2d(dim, dim, 1), nn.GELU())
                for before, dim in zip((in_chans, *embed_dims), embed_dims, strict=False)
            )
        )
        self.feature_info = [
            dict(num_chs=dim, reduction=2 ** (stage + 1), module=f"stages.{stage}")
            for stage, dim in enumerate(embed_dims)
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_maps(x)[-1]

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        if x.shape[-1] % 4 or x.shape[-2] % 4:
            raise InputError(f"images of {x.shape[-2]} x {x.shape[-1]}: give a size that 4 divides.")
        maps = []
        for stage in self.stages:
            is_recomputed = self.grad_checkpointing and self.training
            x = checkpoint(stage, x, use_reentrant=False) if is_recomputed else stage(x)
            maps.append(x)
        return maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3)) if self.global_pool else x
        return x if pre_logits else self.head(self.head_drop(x))

    def forward_intermediates(
        self, x: Tensor, indices: Any = None, intermediates_only: bool = False, **_: Any
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        maps = self.forward_maps(x)
        taken = maps if indices is None else [maps[index] for index in indices]
        return taken if intermediates_only else (maps[-1], taken)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return dict(stem=r"^nothing", blocks=r"^stages\.(\d+)")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable


def thimble_s(**overrides: Any) -> Thimble:
    """Two stages."""
    return Thimble(**overrides)
