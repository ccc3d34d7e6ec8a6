from __future__ import annotations

import pytest
import torch

import visionsparse as vs
from visionsparse.errors import ConfigError, InputError
from visionsparse.models.biformer import blocks
from visionsparse.models.biformer.model import BiFormer, BiFormerBackbone

SIZES = {
    "depths": (1, 2, 2, 1),
    "embed_dims": (16, 32, 32, 64),
    "head_dim": 16,
    "topks": (1, 4, 8, -2),
    "num_classes": 5,
}


def small_net(**overrides) -> BiFormer:
    """A narrow net of four stages on 4 x 4 regions: takes multiples of 64."""
    torch.manual_seed(0)
    return BiFormer(**{**SIZES, "regions_per_side": 4, **overrides})


@pytest.mark.parametrize(
    ("name", "params", "entries"),
    [
        ("biformer_tiny", 13_142_760, 264),
        ("biformer_small", 25_536_232, 518),
        ("biformer_base", 56_804_968, 518),
        ("biformer_stl", 28_372_552, 201),
        ("biformer_stl_nchw", 28_372_552, 201),
    ],
)
def test_parameters_and_state_dict_entries_are_as_many_as_published(name: str, params: int, entries: int) -> None:
    with torch.device("meta"):
        net = vs.create_model(name)

    assert sum(parameter.numel() for parameter in net.parameters()) == params
    assert len(net.state_dict()) == entries


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"downsampling": "patch", "pos_embed_kernel_size": 0},
        {"operator": "nchw", "topks": (1, 4, 8, -1)},
        {"topks": (0, 4, -1, -2)},
        {"pre_norm": False, "layer_scale_init_value": 0.1, "mlp_dwconv": True, "drop_path_rate": 0.2},
        {"soft_routing": True, "diff_routing": True, "param_routing": True, "qk_dims": (16, 16, 32, 64)},
        {"kv_downsample_mode": "ada_maxpool", "kv_per_regions": (2, 2, 1, 1), "param_attention": "qkv"},
    ],
    ids=lambda overrides: ",".join(overrides),
)
def test_every_option_trains(overrides: dict) -> None:
    net = small_net(**overrides)

    logits = net(torch.randn(2, 3, 64, 128))
    logits.square().sum().backward()

    assert logits.shape == (2, 5)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_net_of_another_number_of_stages_works() -> None:
    net = BiFormer(depths=(1, 1), embed_dims=(32, 64), topks=(4, 1), regions_per_side=(4, 2), num_classes=5)

    assert [info["reduction"] for info in net.feature_info] == [4, 8]
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("size", [(50, 70), (65, 64)])
def test_odd_sizes_work_with_auto_pad(size: tuple[int, int]) -> None:
    maps = small_net(auto_pad=True).forward_maps(torch.randn(1, 3, *size))

    assert [out.shape[2:] for out in maps] == [(-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)]


def test_odd_sizes_are_refused_without_auto_pad() -> None:
    with pytest.raises(InputError, match=r"stage 1: a map of 13 x 16 does not divide .*auto_pad=True"):
        small_net()(torch.randn(1, 3, 50, 64))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"topks": (1, 4, 17, -2)}, r"topk=17, but there are 4 x 4 = 16 regions"),
        ({"topks": (1, 4, -2)}, r"topks has 3 entries, but depths has 4"),
        ({"topks": (1, 4, -3, -2)}, r"expected a number of regions, 0, -1 or -2"),
        ({"downsampling": "patches"}, r"downsampling='patches' is not known. Did you mean 'patch'"),
        ({"operator": "nchw", "soft_routing": True}, r"operator='nchw' has no soft routing"),
        ({"grad_checkpointing_stages": (4,)}, r"grad_checkpointing_stages: no stage 4, expected 0 to 3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(overrides: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_net(**overrides)


def test_intermediates_are_the_raw_maps_of_the_chosen_stages() -> None:
    net = small_net().eval()
    x = torch.randn(1, 3, 64, 64)
    maps = net.forward_maps(x)

    last, taken = net.forward_intermediates(x, indices=[0, -1])
    early, _ = net.forward_intermediates(x, indices=[1], stop_early=True)
    normed = net.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)

    assert taken[0].equal(maps[0])
    assert taken[1].equal(maps[3])
    assert last.equal(net.forward_features(x))
    assert early.equal(maps[1])
    assert normed[0].equal(last)


def test_the_classifier_can_be_replaced_or_removed() -> None:
    net = small_net()
    x = torch.randn(2, 3, 64, 64)

    net.reset_classifier(7)
    assert net(x).shape == (2, 7)
    assert net.get_classifier().out_features == net.num_classes == 7
    net.reset_classifier(0)
    assert net(x).shape == (2, net.num_features)
    with pytest.raises(ConfigError, match="pools by 'avg', or not at all"):
        net.reset_classifier(7, global_pool="max")


def test_pooled_features_come_before_the_classifier() -> None:
    net = small_net().eval()
    features = net.forward_features(torch.randn(2, 3, 64, 64))

    pooled = net.forward_head(features, pre_logits=True)

    assert pooled.equal(features.mean((2, 3)))
    assert net.head(pooled).equal(net.forward_head(features))


def test_gradient_checkpointing_can_be_asked_for_in_chosen_stages_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published option wrapped the stem and every down-sampling whatever the stages."""
    recomputed = []
    monkeypatch.setattr(blocks, "checkpoint", lambda block, x, **_: recomputed.append(block) or block(x))
    net = small_net(grad_checkpointing_stages=(1, 3))

    net(torch.randn(2, 3, 64, 64))

    assert recomputed == [*net.stages[1].blocks, *net.stages[3].blocks]


def test_gradient_checkpointing_repeats_the_drop_path_of_the_forward_pass() -> None:
    x = torch.randn(4, 3, 64, 64)

    def gradients(stages: tuple[int, ...]) -> list[torch.Tensor]:
        net = small_net(drop_path_rate=0.5, grad_checkpointing_stages=stages)
        torch.manual_seed(1)
        net(x).square().sum().backward()
        return [parameter.grad for parameter in net.parameters()]

    torch.testing.assert_close(gradients((0, 1, 2, 3)), gradients(()), rtol=0, atol=0)


def test_drop_path_rates_grow_linearly_over_the_blocks_and_act_in_training_only() -> None:
    net = small_net(drop_path_rate=0.5)
    x = torch.randn(2, 3, 64, 64)

    rates = [block.drop_path.rate for stage in net.stages for block in stage.blocks]

    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    torch.testing.assert_close(net.eval()(x), small_net().eval()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_float32(dtype: torch.dtype) -> None:
    net = small_net(topks=(16, 16, 16, -2)).eval()  # all regions: no choice that rounding could turn
    x = torch.randn(2, 3, 64, 64)
    expected = net(x)

    with torch.autocast("cpu", dtype=dtype):
        out = net(x)

    assert (out - expected).abs().max() < 0.1 * expected.std()


def test_routed_regions_are_told_for_every_block_with_routing() -> None:
    net = small_net().eval()

    found = net.routed_regions(torch.randn(2, 3, 64, 128))

    assert [(block.stage, block.block, block.stride) for block in found] == [
        (0, 0, 4), (1, 0, 8), (1, 1, 8), (2, 0, 16), (2, 1, 16),
    ]  # fmt: skip
    assert [block.routing.routes.shape for block in found] == [(2, 16, 1)] + 2 * [(2, 16, 4)] + 2 * [(2, 16, 8)]
    assert [block.routing.region_size for block in found] == [(4, 8)] + 2 * [(2, 4)] + 2 * [(1, 2)]
    assert not any(block.attn._forward_pre_hooks for stage in net.stages for block in stage.blocks)


def test_linear_layers_start_small_except_in_the_nchw_operator() -> None:
    assert small_net().stages[2].blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    uniform = small_net(operator="nchw").stages[2].blocks[0].attn.qkv.weight
    assert uniform.std().item() == pytest.approx((3 * 32) ** -0.5, rel=0.1)


def test_the_backbone_normalises_its_outputs_only() -> None:
    torch.manual_seed(0)
    backbone = BiFormerBackbone(**SIZES, regions_per_side=4, auto_pad=True).eval()
    x = torch.randn(1, 3, 60, 70)

    outs, raw = backbone(x), backbone.forward_maps(x)

    assert [out.shape for out in outs] == [out.shape for out in raw]
    for out in outs:
        torch.testing.assert_close(out.mean(1), torch.zeros_like(out[:, 0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["biformer_small_det", "biformer_base_det"])
def test_detection_backbones_cut_into_sixteen_regions_and_pad(name: str) -> None:
    with torch.device("meta"):
        attn = vs.create_model(name).stages[0].blocks[0].attn

    assert attn.regions_per_side == 16
    assert attn.auto_pad


def test_the_nano_net_skips_regions_of_a_digit() -> None:
    net = vs.create_model("biformer_nano", num_classes=10).eval()
    x = torch.randn(2, 3, 32, 32)

    assert net(x).shape == (2, 10)
    for block in net.routed_regions(x):
        rows, columns = block.routing.grid
        assert block.routing.routes.shape[-1] < rows * columns
