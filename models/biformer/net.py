"""The BiFormer net: a pyramid of stages, the first with routed attention, the last with full attention.

    x -> stem (stride 4) -> stage 1 -> [stride 2 -> stage] for each further stage -> batch norm -> mean -> linear

Source: BiFormer, arXiv 2303.08810; the layout is that of the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from visionsparse.errors import ConfigError, InputError, did_you_mean
from visionsparse.models.biformer.attention import ConvolutionStandIn, FullAttention
from visionsparse.models.biformer.blocks import (
    Block,
    Stage,
    overlapping_downsample,
    overlapping_stem,
    patch_downsample,
    patch_stem,
)
from visionsparse.models.biformer.routing import BiLevelRoutingAttention, FloorRegionRoutingAttention, Routing


class RoutedBlock(NamedTuple):
    """The routing of one block, both counted from 0, and the stride of its map in input pixels."""

    stage: int
    block: int
    stride: int
    routing: Routing


class BiFormer(nn.Module):
    """BiFormer for classification: (B, in_chans, height, width) float -> (B, num_classes) logits.

    Arguments "per stage" are one value for all stages or a sequence of one value each.

    Args:
        in_chans: channels of the image.
        num_classes: classes; 0 for pooled features (B, embed_dims[-1]).
        depths: blocks per stage; its length is the number of stages.
        embed_dims: channels per stage.
        mlp_ratios: MLP width over channels, per stage.
        head_dim: channels of a head in the stages with routing (full attention has 8 heads, as published).
        qk_dims: channels of queries and keys, per stage (default `embed_dims`).
        topks: per stage, the regions that each region reads; -2: full attention with local enhancement, -1: without
            (`operator="nchw"`: also with), 0: a convolution in place of attention.
        regions_per_side: regions along each side of the map, per stage.
        lepe_kernel_size: depthwise kernel of the local enhancement; 0 for none.
        pos_embed_kernel_size: depthwise kernel before each attention; 0 for none.
        auto_pad: pad maps that don't divide into regions (`operator="nchw"` takes any map without).
        kv_downsample_mode: "identity", or pooling of keys and values by "ada_avgpool", "ada_maxpool", "avgpool" or
            "maxpool".
        kv_per_regions: key tokens along a side of a region after "ada_*" pooling, per stage.
        kv_downsample_ratios: kernel and stride of "avgpool" and "maxpool", per stage.
        soft_routing, diff_routing, param_routing, param_attention: see `BiLevelRoutingAttention`.
        pre_norm, mlp_dwconv, layer_scale_init_value: see `Block`.
        downsampling: "overlapping" 3 x 3 convolutions (T, S, B) or "patch" (STL).
        operator: the published routing operator: "nhwc" (`BiLevelRoutingAttention`) or "nchw"
            (`FloorRegionRoutingAttention`); it also says what full attention's local enhancement sees.
        global_pool: "avg", or "" to give the map itself to the classifier's place (with num_classes 0).
        drop_rate: dropout before the classifier.
        drop_path_rate: drop path of the last block; it grows linearly from 0 over all blocks.
        grad_checkpointing_stages: stages, from 0, whose blocks are computed again in the backward pass instead of
            keeping their activations: less memory, a third more work.

    Raises:
        ConfigError: arguments that don't fit together.
    """

    def __init__(
        self,
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 8, 2),
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        mlp_ratios: float | Sequence[float] = 3.0,
        head_dim: int = 32,
        qk_dims: int | Sequence[int | None] | None = None,
        topks: int | Sequence[int] = (1, 4, 16, -2),
        regions_per_side: int | Sequence[int] = 7,
        lepe_kernel_size: int = 5,
        pos_embed_kernel_size: int = 3,
        auto_pad: bool = False,
        kv_downsample_mode: str = "identity",
        kv_per_regions: int | Sequence[int] = 2,
        kv_downsample_ratios: int | Sequence[int] = 1,
        soft_routing: bool = False,
        diff_routing: bool = False,
        param_routing: bool = False,
        param_attention: str = "qkvo",
        pre_norm: bool = True,
        mlp_dwconv: bool = False,
        layer_scale_init_value: float = -1.0,
        downsampling: str = "overlapping",
        operator: str = "nhwc",
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        grad_checkpointing_stages: Sequence[int] = (),
    ) -> None:
        super().__init__()
        num_stages = len(depths)
        embed_dims = _per_stage("embed_dims", embed_dims, num_stages)
        mlp_ratios = _per_stage("mlp_ratios", mlp_ratios, num_stages)
        qk_dims = [qk or dim for qk, dim in zip(_per_stage("qk_dims", qk_dims, num_stages), embed_dims, strict=True)]
        topks = _per_stage("topks", topks, num_stages)
        regions_per_side = _per_stage("regions_per_side", regions_per_side, num_stages)
        kv_per_regions = _per_stage("kv_per_regions", kv_per_regions, num_stages)
        kv_downsample_ratios = _per_stage("kv_downsample_ratios", kv_downsample_ratios, num_stages)
        stem, downsample = _choose("downsampling", downsampling, _DOWNSAMPLING)
        _choose("operator", operator, {"nhwc": None, "nchw": None})
        has_options = soft_routing or kv_downsample_mode != "identity" or param_attention != "qkvo"
        if operator == "nchw" and (has_options or qk_dims != embed_dims):
            raise ConfigError(
                "operator='nchw' has no soft routing, qk_dims, kv_downsample_mode or param_attention: use 'nhwc'."
            )

        def attention(stage: int) -> nn.Module:
            dim, topk = embed_dims[stage], topks[stage]
            sizes = dict(
                num_heads=qk_dims[stage] // head_dim,
                regions_per_side=regions_per_side[stage],
                topk=topk,
                lepe_kernel_size=lepe_kernel_size,
            )
            if topk == 0:
                return ConvolutionStandIn(dim)
            if topk < 0 and operator == "nchw":
                return FullAttention(dim, lepe_on="value")  # published: 5 x 5 whatever lepe_kernel_size says
            if topk < 0:
                return FullAttention(dim, lepe_kernel_size=lepe_kernel_size if topk == -2 else 0)
            if operator == "nchw":
                return FloorRegionRoutingAttention(dim, **sizes)
            return BiLevelRoutingAttention(
                dim,
                **sizes,
                qk_dim=qk_dims[stage],
                auto_pad=auto_pad,
                kv_downsample_mode=kv_downsample_mode,
                kv_per_region=kv_per_regions[stage],
                kv_downsample_ratio=kv_downsample_ratios[stage],
                soft_routing=soft_routing,
                diff_routing=diff_routing,
                param_routing=param_routing,
                param_attention=param_attention,
            )

        if any(topk < -2 for topk in topks):
            raise ConfigError(f"topks={topks}: expected a number of regions, 0, -1 or -2 in each stage.")
        last_block = max(sum(depths) - 1, 1)
        drop_path_rates = (drop_path_rate * block / last_block for block in range(sum(depths)))
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.downsampling = downsampling
        self.operator = operator
        self.global_pool = _pooling(global_pool, num_classes)
        self.stem = stem(in_chans, embed_dims[0])
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(depths):
            blocks = [
                Block(
                    embed_dims[stage],
                    attention(stage),
                    mlp_ratio=mlp_ratios[stage],
                    pos_embed_kernel_size=pos_embed_kernel_size,
                    mlp_dwconv=mlp_dwconv,
                    pre_norm=pre_norm,
                    layer_scale_init_value=layer_scale_init_value,
                    drop_path_rate=next(drop_path_rates),
                )
                for _ in range(depth)
            ]
            step = downsample(embed_dims[stage - 1], embed_dims[stage]) if stage else nn.Identity()
            self.stages.append(Stage(stage + 1, step, blocks))
        for stage in grad_checkpointing_stages:
            if not 0 <= stage < num_stages:
                raise ConfigError(f"grad_checkpointing_stages: no stage {stage}, expected 0 to {num_stages - 1}.")
            self.stages[stage].grad_checkpointing = True
        self.feature_info = [
            dict(num_chs=dim, reduction=4 * 2**stage, module=f"stages.{stage}") for stage, dim in enumerate(embed_dims)
        ]
        self._build_outputs(embed_dims, drop_rate)
        self._init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_chans, height, width) -> logits (B, num_classes).

        Raises:
            InputError: a stage's map does not divide into regions and auto_pad is off; names the stage.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """x: (B, in_chans, height, width) -> the normalised last map (B, embed_dims[-1], height/32, width/32)."""
        return self.norm(self.forward_maps(x)[-1])

    def forward_maps(self, x: Tensor, num_stages: int | None = None) -> list[Tensor]:
        """The raw map (B, embed_dims[i], height, width) after each of the first `num_stages` stages (default: all)."""
        x = self.stem(x)
        maps = []
        for stage in self.stages[:num_stages]:
            x = stage(x)
            maps.append(x)
        return maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """x: what `forward_features` gives -> logits, or with `pre_logits` the pooled features (B, embed_dims[-1])."""
        x = x.mean((2, 3)) if self.global_pool else x
        return x if pre_logits else self.head(self.head_drop(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of chosen stages, as timm's feature extraction calls it.

        Args:
            x: (B, in_chans, height, width).
            indices: stages, counted from 0 or from the end; a number n means the last n; None all.
            norm: normalise the last stage's map.
            stop_early: don't run the stages after the last chosen one.
            output_fmt: "NCHW" only.
            intermediates_only: give the list of maps alone.

        Returns: the list, or the last computed map (normalised as `forward_features` does where it is the last stage's)
            and the list.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt={output_fmt!r}: BiFormer's maps are 'NCHW'.")
        num_stages = len(self.stages)
        indices = num_stages if indices is None else indices
        taken = list(range(num_stages)[-indices:] if isinstance(indices, int) else indices)
        if any(not -num_stages <= index < num_stages for index in taken):
            raise InputError(f"indices={taken}: there are {num_stages} stages, 0 to {num_stages - 1}.")
        taken = [index % num_stages for index in taken]
        maps = self.forward_maps(x, max(taken) + 1 if stop_early else None)
        last = self.norm(maps[-1]) if len(maps) == num_stages else maps[-1]
        intermediates = [last if norm and index == num_stages - 1 else maps[index] for index in taken]
        return intermediates if intermediates_only else (last, intermediates)

    @torch.no_grad()
    def routed_regions(self, x: Tensor) -> list[RoutedBlock]:
        """Which regions each region reads, for every block with routing, in order. Call it in eval mode.

        Region r of a block covers, in pixels of x, the rows from `r // columns * region_size[0] * stride` on and the
        columns from `r % columns * region_size[1] * stride` on, with `grid = (rows, columns)`.

        Args:
            x: (B, in_chans, height, width).
        """
        found: list[RoutedBlock] = []
        hooks = []
        for stage_index, stage in enumerate(self.stages):
            stride = self.feature_info[stage_index]["reduction"]
            for block_index, block in enumerate(stage.blocks):
                if isinstance(block.attn, BiLevelRoutingAttention):

                    def note(attn: Any, args: Any, where: tuple = (stage_index, block_index, stride)) -> None:
                        found.append(RoutedBlock(*where, attn.routing(*args)))

                    hooks.append(block.attn.register_forward_pre_hook(note))
        try:
            self.forward_maps(x)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def get_classifier(self) -> nn.Module:
        """The classifier; the identity where num_classes is 0."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier of `num_classes` classes (0: none), and another `global_pool` if one is given."""
        self.global_pool = _pooling(self.global_pool if global_pool is None else global_pool, num_classes)
        self.num_classes = num_classes
        reference = next(self.parameters())
        self.head = _classifier(self.num_features, num_classes).to(reference.device, reference.dtype)

    def no_weight_decay(self) -> set[str]:
        """Parameters besides biases and norms that weight decay spares: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into layer groups, for timm's layer-wise learning rates."""
        fine = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^(?:norm|out_norms)", (99999,)),
        ]
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else fine)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block's activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def _build_outputs(self, embed_dims: list[int], drop_rate: float) -> None:
        """What follows the stages."""
        self.norm = nn.BatchNorm2d(embed_dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = _classifier(embed_dims[-1], self.num_classes)

    def _init_weights(self) -> None:
        if self.operator == "nchw":  # published: its projections are 1 x 1 convolutions and keep the framework's init
            return
        for module in self.stages.modules():
            if isinstance(module, nn.Linear):
                _init_linear(module)


_DOWNSAMPLING = {"overlapping": (overlapping_stem, overlapping_downsample), "patch": (patch_stem, patch_downsample)}


def _per_stage(name: str, value: Any, num_stages: int) -> list:
    """`value` for every stage: itself repeated, or a sequence of the right length."""
    if not isinstance(value, Sequence):
        return [value] * num_stages
    if len(value) != num_stages:
        raise ConfigError(f"{name} has {len(value)} entries, but depths has {num_stages}: give one for each stage.")
    return list(value)


def _choose(name: str, value: str, choices: dict[str, Any]) -> Any:
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is not known.{did_you_mean(value, choices)}")
    return choices[value]


def _pooling(global_pool: str, num_classes: int) -> str:
    if global_pool not in ("", "avg"):
        raise ConfigError(f"global_pool={global_pool!r}: BiFormer pools by 'avg', or not at all ('').")
    if not global_pool and num_classes:
        raise ConfigError(f"global_pool='' with {num_classes} classes: a classifier reads pooled features. Use 'avg'.")
    return global_pool


def _init_linear(linear: nn.Linear) -> None:
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def _classifier(dim: int, num_classes: int) -> nn.Module:
    if num_classes == 0:
        return nn.Identity()
    linear = nn.Linear(dim, num_classes)
    _init_linear(linear)
    return linear
