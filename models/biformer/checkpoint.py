"""The published layouts of BiFormer (github.com/rayleizhu/BiFormer) in our names.

One table serves T, S and B, STL, STL-nchw, the dense-task backbones and lone attention modules: no two of them give one
name different meanings. The way back does depend on the net: `publish` asks it for its downsampling and operator.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from visionsparse.models.biformer.routing import BiLevelRoutingAttention

LAYOUT = "biformer published"
WEIGHTS_KEY = "model"  # beside it `model_ema`, which was never evaluated

_BLOCK = r"^stages\.(\d+)\.(?:blocks\.)?(\d+)\."  # STL says `blocks`, the others don't
_IN_ATTENTION = (
    (r"(?:qkv\.qkv|qkv_linear)\.", "qkv."),
    (r"(?:wo|output_linear)\.", "proj."),
    (r"router\.emb\.", "router."),
)
_IN_BLOCK = (
    (r"attn\.1\.", "attn.pointwise_in."),  # topk 0: a sequence whose ends only permute
    (r"attn\.2\.", "attn.depthwise."),
    (r"attn\.3\.", "attn.pointwise_out."),
    (r"mlp\.0\.", "mlp.fc1."),
    (r"mlp\.1\.dwconv\.", "mlp.dwconv."),
    (r"mlp\.[23]\.", "mlp.fc2."),  # STL has no place for a convolution between
    *((r"attn\." + published, "attn." + ours) for published, ours in _IN_ATTENTION),
    (r"", ""),
)

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^extra_norms\.", "out_norms."),
    *((_BLOCK + published, r"stages.\1.blocks.\2." + ours) for published, ours in _IN_BLOCK),
    *(("^" + published, ours) for published, ours in _IN_ATTENTION),  # a lone attention module
)


def reshape(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives the 1 x 1 convolutions of STL-nchw the shape of the linear layers that we hold in their place."""
    linear = {
        f"{name}.weight" if name else "weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)
    }
    return {
        name: tensor.flatten(1) if name in linear and tensor.shape[2:] == (1, 1) else tensor
        for name, tensor in state.items()
    }


def publish(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a whole net under the published names and in the published shapes: undoes what is above."""
    is_stl, is_nchw = model.downsampling == "patch", model.operator == "nchw"
    projections = {"qkv": "qkv_linear", "proj": "output_linear"} if is_nchw else {"qkv": "qkv.qkv", "proj": "wo"}
    routed = [re.escape(name) for name, part in model.named_modules() if isinstance(part, BiLevelRoutingAttention)]
    table = [
        *((rf"^({name})\.{ours}\.", rf"\1.{published}.") for name in routed for ours, published in projections.items()),
        *((rf"\.{ours}\.", f".{published}.") for ours, published in _IN_BLOCK_AS_PUBLISHED.items()),
        (r"\.mlp\.fc2\.", ".mlp.2." if is_stl else ".mlp.3."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"^stem\.", "downsample_layers.0."),
        (r"^out_norms\.", "extra_norms."),
        *([] if is_stl else [(r"^(stages\.\d+)\.blocks\.", r"\1.")]),
    ]
    convolutions = {
        f"{name}.weight"
        for name, part in model.named_modules()
        if is_nchw and isinstance(part, nn.Linear) and name.startswith("stages.")
    }
    published = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in table:
            new = re.sub(pattern, replacement, new)
        published[new] = tensor[:, :, None, None] if name in convolutions else tensor
    return published


_IN_BLOCK_AS_PUBLISHED = {
    "attn.router": "attn.router.emb",
    "attn.pointwise_in": "attn.1",
    "attn.depthwise": "attn.2",
    "attn.pointwise_out": "attn.3",
    "mlp.fc1": "mlp.0",
    "mlp.dwconv": "mlp.1.dwconv",
}
