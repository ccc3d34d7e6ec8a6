from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.models.biformer.written_out import routing_attention_written_out
from visionsparse.errors import ConfigError, InputError
from visionsparse.models.biformer.routing import (
    BiLevelRoutingAttention,
    FloorRegionRoutingAttention,
    region_means,
)


def routing_attention(**arguments) -> BiLevelRoutingAttention:
    torch.manual_seed(0)
    return BiLevelRoutingAttention(**{"dim": 16, "num_heads": 2, "regions_per_side": 4, "topk": 3, **arguments})


def dense_attention(attn: BiLevelRoutingAttention, x: torch.Tensor) -> torch.Tensor:
    """Attention over all tokens with the projections of `attn`, without routing."""
    q, k, v = (part.unflatten(-1, (attn.num_heads, -1)) for part in attn.qkv(x).chunk(3, dim=-1))
    q, k, v = (part.permute(0, 3, 1, 2, 4).flatten(2, 3) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
    return attn.proj(out.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"auto_pad": True, "qk_dim": 8},
        {"lepe_kernel_size": 0, "param_attention": "qkv"},
        {"soft_routing": True},
        {"soft_routing": True, "diff_routing": True},
        {"soft_routing": True, "diff_routing": True, "param_routing": True, "auto_pad": True},
        {"kv_downsample_mode": "ada_avgpool", "kv_per_region": 2, "soft_routing": True, "qk_dim": 8},
        {"kv_downsample_mode": "ada_maxpool", "kv_per_region": 1, "auto_pad": True},
        {"kv_downsample_mode": "avgpool", "kv_downsample_ratio": 2},
        {"kv_downsample_mode": "maxpool", "kv_downsample_ratio": 2, "auto_pad": True},
    ],
    ids=lambda arguments: ",".join(arguments) or "plain",
)
def test_every_option_gives_what_the_steps_written_out_give(arguments: dict) -> None:
    attn = routing_attention(**arguments)
    size = (10, 13) if attn.auto_pad else (12, 16)
    x = torch.randn(2, *size, 16, requires_grad=True)
    upstream = torch.randn(2, *size, 16)
    inputs = [x, *attn.parameters()]

    out, expected = attn(x), routing_attention_written_out(attn, x)

    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    gradients = torch.autograd.grad(out, inputs, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, upstream), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("operator", [BiLevelRoutingAttention, FloorRegionRoutingAttention])
def test_routing_to_every_region_is_full_attention(operator: type) -> None:
    attn = operator(16, 2, regions_per_side=2, topk=4, lepe_kernel_size=0)
    x = torch.randn(2, 6, 4, 16)

    torch.testing.assert_close(attn(x), dense_attention(attn, x))


def test_a_region_reads_its_routed_regions_only() -> None:
    attn = routing_attention(topk=1, lepe_kernel_size=0)
    x = torch.randn(1, 8, 8, 16, requires_grad=True)
    routes = attn.routing(x).routes[0]
    q, k, v = attn._project(x)

    attn._attend(q, k, v, attn._route(q, k))[0, :2, :2].sum().backward()  # the queries of region 0

    touched = region_means(x.grad.abs(), (2, 2))[0].sum(-1) > 0
    assert set(touched.nonzero().flatten().tolist()) == {0, routes[0, 0].item()}


def test_routes_are_the_regions_of_highest_mean_affinity() -> None:
    attn = routing_attention()
    x = torch.randn(2, 8, 12, 16)
    q, k, _ = attn.qkv(x).split(16, dim=-1)
    mean_q, mean_k = (part.view(2, 4, 2, 4, 3, 16).mean((2, 4)).flatten(1, 2) for part in (q, k))

    routing = attn.routing(x)

    assert routing.grid == (4, 4)
    assert routing.region_size == (2, 3)
    assert routing.routes.equal((mean_q @ mean_k.transpose(1, 2)).topk(3).indices)
    torch.testing.assert_close(routing.weights.sum(-1), torch.ones(2, 16))


def test_probabilities_sum_to_one_over_the_routed_keys() -> None:
    attn = routing_attention()

    probabilities = attn.attention(torch.randn(2, 8, 12, 16))

    assert probabilities.shape == (2, 2, 16, 6, 3 * 6)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 2, 16, 6))


def test_means_are_over_real_tokens_where_regions_hang_over() -> None:
    x = torch.randn(1, 3, 5, 2)

    means = region_means(x, (2, 2))

    assert means.shape == (1, 2 * 3, 2)
    torch.testing.assert_close(means[0, -1], x[0, 2, 4])


@pytest.mark.parametrize("size", [(7, 9), (5, 4), (4, 11)])
def test_auto_pad_equals_padding_by_hand(size: tuple[int, int]) -> None:
    attn = routing_attention(auto_pad=True)
    x = torch.randn(2, *size, 16)
    height, width = size
    padded = F.pad(x, (0, 0, 0, -width % 4, 0, -height % 4))

    torch.testing.assert_close(attn(x), attn(padded)[:, :height, :width])


@pytest.mark.parametrize("size", [(7, 9), (4, 4), (10, 15)])
def test_the_floor_region_operator_takes_any_map(size: tuple[int, int]) -> None:
    attn = FloorRegionRoutingAttention(16, 2, regions_per_side=4, topk=3)
    x = torch.randn(2, *size, 16)

    rows, columns = attn.routing(x).grid

    assert attn(x).shape == x.shape
    assert (rows, columns) == (-(-size[0] // (size[0] // 4)), -(-size[1] // (size[1] // 4)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"kv_downsample_mode": "ada_avgpool", "kv_per_region": 2},
        {"kv_downsample_mode": "ada_maxpool", "kv_per_region": 1},
        {"kv_downsample_mode": "avgpool", "kv_downsample_ratio": 2},
        {"kv_downsample_mode": "maxpool", "kv_downsample_ratio": 3},
    ],
)
def test_pooling_leaves_fewer_keys(arguments: dict) -> None:
    attn = routing_attention(**arguments)
    x = torch.randn(1, 12, 12, 16)
    tokens_per_side = {"ada_avgpool": 2, "avgpool": 1}.get(arguments["kv_downsample_mode"], 1)

    assert attn.attention(x).shape[-1] == 3 * tokens_per_side**2
    assert attn(x).shape == x.shape


def test_pooling_to_the_regions_own_size_changes_nothing() -> None:
    plain = routing_attention()
    pooled = routing_attention(kv_downsample_mode="ada_avgpool", kv_per_region=2)
    x = torch.randn(1, 8, 8, 16)

    torch.testing.assert_close(pooled(x), plain(x))


@pytest.mark.parametrize("diff_routing", [False, True])
def test_soft_routing_passes_gradient_through_the_weights_only_if_asked(diff_routing: bool) -> None:
    attn = routing_attention(topk=2, soft_routing=True, diff_routing=diff_routing, param_routing=diff_routing)

    assert attn.routing(torch.randn(1, 8, 8, 16)).weights.requires_grad == diff_routing


def test_the_regions_are_chosen_in_float32_under_autocast() -> None:
    attn = routing_attention(topk=2)
    q, k = torch.randn(2, 1, 8, 8, 16, dtype=torch.bfloat16).unbind(0)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = attn._route(q, k)

    assert routing.weights.dtype == torch.float32
    assert routing.routes.equal(attn._route(q.float(), k.float()).routes)


def test_a_map_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match=r"a map of 8 x 10 does not divide into 4 x 4 regions: use auto_pad=True"):
        routing_attention()(torch.randn(1, 8, 10, 16))


def test_a_map_smaller_than_the_regions_is_refused() -> None:
    with pytest.raises(InputError, match=r"a map of 3 x 9 is smaller than 4 x 4 regions"):
        FloorRegionRoutingAttention(16, 2, regions_per_side=4, topk=3)(torch.randn(1, 3, 9, 16))


def test_pooling_by_more_than_a_region_is_refused() -> None:
    with pytest.raises(InputError, match="kv_downsample_ratio=3 is larger than the region of 2 x 2"):
        routing_attention(kv_downsample_mode="avgpool", kv_downsample_ratio=3)(torch.randn(1, 8, 8, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"topk": 17}, r"topk=17, but there are 4 x 4 = 16 regions"),
        ({"topk": 0}, r"topk=0, but"),
        ({"num_heads": 3}, r"num_heads=3 does not divide"),
        ({"diff_routing": True}, r"needs soft_routing=True"),
        ({"param_routing": True, "soft_routing": True}, r"param_routing needs diff_routing=True"),
        ({"kv_downsample_mode": "ada_avg"}, r"Did you mean 'ada_avgpool'"),
        ({"kv_downsample_mode": "ada_avgpool", "kv_per_region": -1}, r"kv_per_region=-1: ada_avgpool needs"),
        ({"param_attention": "qk"}, r"expected 'qkvo' or 'qkv'"),
        ({"lepe_kernel_size": 4}, r"a depthwise kernel of size 4: expected an odd number"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        routing_attention(**arguments)
