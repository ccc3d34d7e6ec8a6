from __future__ import annotations

import argparse
import re

import pytest
import torch
from torch import Tensor, nn

import visionsparse as vs
from tests.golden.golden import Case
from tests.golden.test_golden import CASES
from visionsparse.checkpoint.layouts import publish
from visionsparse.errors import CheckpointError
from visionsparse.models.biformer.attention import FullAttention
from visionsparse.models.biformer.model import BiFormer, BiFormerBackbone
from visionsparse.models.biformer.routing import BiLevelRoutingAttention

SIZES = {"depths": (1, 1, 1, 1), "embed_dims": (32, 32, 64, 64), "topks": (1, 2, 4, -2), "num_classes": 5}
ROUTING = {"soft_routing": True, "diff_routing": True, "param_routing": True}
STL = {**SIZES, "downsampling": "patch", "pos_embed_kernel_size": 0}


def published_names(net: nn.Module, is_stl: bool = False, is_nchw: bool = False) -> dict[str, Tensor]:
    """The state of `net` as the published code names and shapes it, written down apart from our table."""
    published = {}
    for name, tensor in net.state_dict().items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"^out_norms\.", "extra_norms.", name)
        if not is_stl:
            name = name.replace(".blocks.", ".")
        name = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2" if is_stl else "mlp.3")
        name = name.replace("mlp.dwconv", "mlp.1.dwconv")
        name = name.replace("attn.pointwise_in", "attn.1").replace("attn.depthwise", "attn.2")
        name = name.replace("attn.pointwise_out", "attn.3")
        if "stages.3" not in name:
            name = name.replace("attn.qkv", "attn.qkv_linear" if is_nchw else "attn.qkv.qkv")
            name = name.replace("attn.proj", "attn.output_linear" if is_nchw else "attn.wo")
            name = name.replace("attn.router", "attn.router.emb")
        is_projection = re.search(r"(mlp\.\d|qkv\w*|proj|output_linear)\.weight$", name)
        published[name] = tensor[:, :, None, None] if is_nchw and is_projection else tensor
    return published


@pytest.mark.parametrize(
    ("net", "layout"),
    [
        (BiFormer(**SIZES), {}),
        (BiFormer(**{**SIZES, "topks": (0, 2, 4, -2)}, mlp_dwconv=True, layer_scale_init_value=0.1), {}),
        (BiFormer(**SIZES, **ROUTING), {}),
        (BiFormer(**STL), {"is_stl": True}),
        (BiFormer(**STL, operator="nchw"), {"is_stl": True, "is_nchw": True}),
        (BiFormerBackbone(**SIZES), {}),
    ],
    ids=["tsb", "options", "routing", "stl", "stl_nchw", "backbone"],
)
def test_published_names_and_shapes_become_ours(net: BiFormer, layout: dict) -> None:
    own = net.state_dict()
    published = published_names(net, **layout)

    converted = vs.convert_state_dict(net, published)

    assert converted.keys() == own.keys()
    assert published.keys() != own.keys()
    assert all(converted[name].equal(own[name]) for name in own)


@pytest.mark.parametrize("name", ["tiny", "small", "base", "stl", "stl_nchw", "det_backbone_small"])
def test_our_names_become_those_of_the_published_code(name: str) -> None:
    case = Case(f"biformer/{name}", root=CASES)
    variant = "biformer_small_det" if name == "det_backbone_small" else case.meta["variant"]
    with torch.device("meta"):
        net = vs.create_model(variant)

    published = publish(net, net.state_dict())

    shapes = {entry: list(tensor.shape) for entry, tensor in published.items()}
    assert shapes == {entry: shape for entry, (shape, _) in case.meta["state"].items()}


@pytest.mark.parametrize(
    "overrides", [{"topks": (0, 2, 4, -2), "mlp_dwconv": True}, ROUTING], ids=["options", "routing"]
)
def test_optional_parts_get_their_published_names_back(overrides: dict) -> None:
    net = BiFormer(**{**SIZES, **overrides})

    assert publish(net, net.state_dict()).keys() == published_names(net).keys()


def test_our_own_names_stay() -> None:
    net = BiFormer(**SIZES)

    assert vs.convert_state_dict(net, net.state_dict()).keys() == net.state_dict().keys()


def test_a_training_file_loads_with_its_namespace_and_averaged_weights(tmp_path) -> None:
    net, other = BiFormer(**SIZES), BiFormer(**SIZES)
    averaged = {name: torch.zeros_like(tensor) for name, tensor in published_names(net).items()}
    file = {
        "model": published_names(net),
        "model_ema": averaged,
        "epoch": 299,
        "max_accuracy": 81.4,
        "args": argparse.Namespace(model="biformer_tiny", lr=5e-4),
    }
    torch.save(file, tmp_path / "best.pth")

    report = vs.load_checkpoint(other, tmp_path / "best.pth")

    assert "biformer published" in report.layout
    assert all(tensor.equal(net.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_a_backbone_loads_with_the_prefix_of_its_detector() -> None:
    net = BiFormerBackbone(**SIZES)
    published = {f"backbone.{name}": tensor for name, tensor in published_names(net).items()}

    report = vs.load_checkpoint(BiFormerBackbone(**SIZES), {"state_dict": published})

    assert "biformer published" in report.layout


def test_a_head_of_other_classes_is_left_out_when_asked() -> None:
    net = BiFormer(**{**SIZES, "num_classes": 3})
    published = published_names(BiFormer(**SIZES))

    report = vs.load_checkpoint(net, published, strict=False)

    assert set(report.missing) == {"head.weight", "head.bias"}
    with pytest.raises(CheckpointError, match="head"):
        vs.load_checkpoint(net, published)


def test_another_variant_is_refused() -> None:
    with pytest.raises(CheckpointError, match="does not fit BiFormer"):
        vs.load_checkpoint(BiFormer(**SIZES), published_names(BiFormer(**STL), is_stl=True))


@pytest.mark.parametrize(
    ("attn", "names"),
    [
        (BiLevelRoutingAttention(16, 2), {"qkv": "qkv.qkv", "proj": "wo", "lepe": "lepe"}),
        (FullAttention(16, 2), {"qkv": "qkv", "proj": "proj", "lepe": "lepe"}),
    ],
    ids=["routing", "full"],
)
def test_a_lone_attention_module_loads(attn: nn.Module, names: dict[str, str]) -> None:
    own = attn.state_dict()
    published = {names[name.split(".")[0]] + "." + name.split(".")[1]: tensor for name, tensor in own.items()}

    assert vs.convert_state_dict(attn, published).keys() == own.keys()


def test_gradients_flow_back_to_the_published_tensors() -> None:
    net = BiFormer(**STL, operator="nchw")
    published = {name: tensor.clone() for name, tensor in published_names(net, is_stl=True, is_nchw=True).items()}
    name = "stages.0.blocks.0.attn.qkv_linear.weight"
    published[name].requires_grad_()

    vs.convert_state_dict(net, published)["stages.0.blocks.0.attn.qkv.weight"].sum().backward()

    assert published[name].grad.shape == (96, 32, 1, 1)
