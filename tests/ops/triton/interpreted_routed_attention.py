"""Tests of visionsparse.ops.triton.routed_attention under TRITON_INTERPRET=1: run by test_interpreted.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ops.kit import OpInputs, assert_all_close
from tests.ops.routed_inputs import make_inputs
from visionsparse import ops
from visionsparse.errors import InputError
from visionsparse.ops.triton import launch
from visionsparse.ops.triton import routed_attention as kernels

pytestmark = pytest.mark.usefixtures("small_tiles")

CASES = {
    "regions on the map": dict(size=(4, 6), region_size=(2, 3)),
    "regions over the edge": dict(size=(5, 4), region_size=(3, 3), value_channels=18, batch=1),
    "weights, a list of several tiles": dict(weighted=True, topk=5, size=(4, 4), region_size=(2, 4), heads=1),
    "weights and routes of each head": dict(weighted=True, shared_routes=False, size=(3, 4), region_size=(3, 2)),
    "weights shared by heads": dict(weighted=True, size=(3, 3), region_size=(2, 2), batch=1),
    "several tiles in a region": dict(size=(5, 9), region_size=(5, 5), channels=17, batch=1, heads=1),
    "keys of another map": dict(
        size=(3, 3), kv_size=(4, 5), region_size=(2, 2), kv_region_size=(3, 2), topk=3, batch=1
    ),
    "one token": dict(size=(1, 1), region_size=(1, 1), topk=1, channels=1, value_channels=1),
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_output_and_every_gradient_agree_with_reference(arguments: dict[str, Any]) -> None:
    case = make_inputs(**arguments)
    assert_all_close(case.run("triton"), case.run("reference"), 2e-5)


def small(**arguments: Any) -> OpInputs:
    return make_inputs(**{**dict(batch=1, heads=1, size=(3, 2), region_size=(2, 2)), **arguments})


@pytest.mark.parametrize("scale", [0.0, 1.7])
def test_scale_is_that_of_the_call(scale: float) -> None:
    case = small()
    assert_all_close(case.run("triton", scale=scale), case.run("reference", scale=scale), 2e-5)


def test_a_region_that_no_route_names_gets_zero_gradients() -> None:
    case = make_inputs(batch=1, size=(4, 2), region_size=(2, 2), topk=2)
    routes = torch.zeros_like(case.arguments["routes"])  # and the other is listed twice
    got = case.run("triton", routes=routes)
    assert_all_close(got, case.run("reference", routes=routes), 2e-5)
    assert not got["grad of k"][:, :, 2:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_err_by_their_rounding(dtype: torch.dtype) -> None:
    case = small(weighted=True, channels=20, size=(4, 4), topk=3).to(dtype)
    got, exact = case.run("triton"), case.to(torch.float64).run("reference", rounded_to=dtype)
    for name, value in got.items():
        assert value.dtype == dtype, name
        error = (value.double() - exact[name]).norm() / exact[name].norm()
        assert error < torch.finfo(dtype).eps, name


@pytest.mark.parametrize("order", [(0, 2, 3, 1, 4), (4, 3, 2, 1, 0)])
def test_strides_do_not_matter(order: tuple[int, ...]) -> None:
    case = small(size=(3, 2), heads=2)
    back = sorted(range(5), key=lambda axis: order[axis])
    tensors = {name: x.permute(order).contiguous().permute(back) for name, x in case.tensors.items()}
    moved = case._replace(tensors=tensors)
    assert not moved.tensors["q"].is_contiguous()
    assert_all_close(moved.run("triton"), case.run("triton"), 1e-6)


def test_maps_inside_one_projection_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    projected = torch.randn(1, 4, 4, 3, 2, 8)  # of a linear layer: batch, height, width, q k v, heads, channels
    q, k, v = projected.permute(3, 0, 4, 1, 2, 5)
    read = []
    monkeypatch.setattr(kernels, "attention_forward", lambda *args: read.extend(args[:3]) or args[0].sum(-1))
    routes = torch.zeros(1, 1, 4, 1, dtype=torch.int64)
    with ops.use_backend("triton"):
        ops.routed_attention(q, k, v, routes, region_size=(2, 2))
    assert [x.data_ptr() for x in read] == [x.data_ptr() for x in (q, k, v)]


def test_wide_offsets_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small(weighted=True)
    expected = case.run("triton")
    monkeypatch.setattr(launch, "_spans_2_31", lambda _: True)
    assert_all_close(case.run("triton"), expected, 0)


def test_the_output_joins_its_heads_without_a_copy() -> None:
    case = make_inputs(batch=1)
    with ops.use_backend("triton"):
        assert case.call().permute(0, 2, 3, 1, 4).is_contiguous()


def test_a_full_graph_gives_the_same_output_and_gradients() -> None:
    case = small(weighted=True)
    values = [x.requires_grad_() for x in case.tensors.values()]

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return case.call(q=q, k=k, v=v, route_weights=weights)

    with ops.use_backend("triton"):
        expected = function(*values)
        out = torch.compile(function, fullgraph=True, backend="aot_eager")(*values)
        got = torch.autograd.grad(out.sum(), values)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected.sum(), values))


@pytest.mark.parametrize("weighted", [False, True])
def test_both_ops_pass_opcheck(weighted: bool) -> None:
    case = small(weighted=weighted, size=(2, 2))
    q, k, v = (case.tensors[name].requires_grad_() for name in "qkv")
    weights = case.tensors["route_weights"].requires_grad_() if weighted else None
    inputs, rest = (q, k, v, case.arguments["routes"], weights), ([2, 2], [2, 2], 0.5)
    torch.library.opcheck(torch.ops.visionsparse.routed_flash.default, (*inputs, *rest))
    inputs = [x if x is None else x.detach() for x in inputs]
    out, lse = torch.ops.visionsparse.routed_flash(*inputs, *rest)
    torch.library.opcheck(
        torch.ops.visionsparse.routed_flash_backward.default, (torch.randn_like(out), *inputs, out, lse, *rest)
    )


def test_a_second_derivative_is_refused_with_a_way_out() -> None:
    case = small()
    q = case.tensors["q"].requires_grad_()
    with ops.use_backend("triton"):
        (grad,) = torch.autograd.grad(case.call().sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivative .* under ops.use_backend\('reference'\)"):
        grad.sum().backward()


def test_a_route_out_of_range_is_an_error_where_nobody_could_look_before() -> None:
    case = small()
    q, k, v = (case.tensors[name] for name in "qkv")
    with pytest.raises(RuntimeError, match="routes: a region number is out of range"):
        kernels.routed_attention(q, k, v, case.arguments["routes"] + 2, None, (2, 2), (2, 2), 1.0)


def test_auto_prefers_torch_to_interpretation() -> None:
    called = []
    case = small()
    original = kernels.routed_attention
    try:
        kernels.routed_attention = lambda *_: called.append(1)
        case.call()
    finally:
        kernels.routed_attention = original
    assert not called


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (dict(dtype=torch.float64), "float16, bfloat16 and float32, not float64"),
        (dict(channels=257), "head widths up to 256, not 257"),
        (dict(value_channels=300), "value widths up to 256, not 300"),
    ],
)
def test_what_it_cannot_take_is_said_in_a_sentence(changed: dict[str, Any], reason: str) -> None:
    with ops.use_backend("triton"), pytest.raises(InputError, match=reason):
        small(**changed).call()


def test_the_attention_is_never_there_to_return() -> None:
    with ops.use_backend("triton"), pytest.raises(InputError, match="never holds the attention"):
        small().call(return_attention=True)
