"""Tests of what routed attention computes: backends against `reference`, both against laws."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.routed_inputs import RoutedInputs, assert_all_close, make_inputs
from visionsparse import ops
from visionsparse.ops import tiled_attention

BACKENDS = ("reference", "torch")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
maps = st.tuples(st.integers(1, 7), st.integers(1, 7))
inputs = st.builds(
    make_inputs,
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    size=maps,
    kv_size=st.none() | maps,
    region_size=pairs,
    kv_region_size=st.none() | pairs,
    channels=st.integers(1, 5),
    value_channels=st.integers(1, 5),
    topk=st.integers(1, 5),
    shared_routes=st.booleans(),
    weighted=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 1000),
)


@pytest.mark.newest_torch
@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=inputs, chunk_bytes=st.sampled_from([1, 2000, 1 << 20]), scale=st.none() | st.floats(0, 2))
def test_output_and_every_gradient_agree_with_reference(
    case: RoutedInputs, chunk_bytes: int, scale: float | None
) -> None:
    expected = case.run("reference", scale=scale)
    with mock.patch.dict(tiled_attention._CHUNK_BYTES, cpu=chunk_bytes):
        got = case.run("torch", scale=scale)
    assert_all_close(got, expected, TOLERANCE[case.tensors["q"].dtype])


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(case=inputs, chunk_bytes=st.sampled_from([1, 2000, 1 << 20]))
def test_a_long_sweep_agrees_with_reference(case: RoutedInputs, chunk_bytes: int) -> None:
    expected = case.run("reference")
    with mock.patch.dict(tiled_attention._CHUNK_BYTES, cpu=chunk_bytes):
        got = case.run("torch")
    assert_all_close(got, expected, TOLERANCE[case.tensors["q"].dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_finite_differences(backend: str, weighted: bool) -> None:
    case = make_inputs(batch=1, size=(3, 4), region_size=(2, 2), weighted=weighted, dtype=torch.float64)
    names, values = zip(*case.tensors.items(), strict=True)
    with ops.use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda *x: case.call(**dict(zip(names, x, strict=True))), [x.requires_grad_() for x in values]
        )


def test_reference_has_a_second_derivative() -> None:
    case = make_inputs(batch=1, heads=1, size=(2, 3), region_size=(1, 2), channels=2, dtype=torch.float64)
    values = [x.requires_grad_() for x in case.tensors.values()]
    with ops.use_backend("reference"):
        assert torch.autograd.gradgradcheck(lambda q, k, v: case.call(q=q, k=k, v=v), values)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_rounded_once(backend: str, dtype: torch.dtype) -> None:
    # Computed in float32: against float64 on the same (rounded) inputs only the rounding of the result is left.
    case = make_inputs(size=(5, 6), weighted=True, topk=4).to(dtype)
    got, exact = case.run(backend), case.to(torch.float64)
    upstream = torch.randn(got["out"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    tensors = {name: x.requires_grad_() for name, x in exact.tensors.items()}
    with ops.use_backend("reference"):
        out = exact.call()
    expected = [out, *torch.autograd.grad(out, list(tensors.values()), upstream.double())]
    for (name, value), right in zip(got.items(), expected, strict=True):
        assert value.dtype == dtype, name
        allowed = torch.finfo(dtype).eps / 2 * right.abs() + 1e-5
        assert ((value.double() - right).abs() <= allowed).all(), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_region_listed_equals_dense_attention(backend: str) -> None:
    case = make_inputs(size=(4, 6), region_size=(2, 3), topk=4)
    routes = torch.stack([torch.randperm(4) for _ in range(2 * 4)]).view(2, 1, 4, 4)
    q, k, v = (case.tensors[name].flatten(2, 3) for name in "qkv")
    with ops.use_backend(backend):
        out = case.call(routes=routes)
    torch.testing.assert_close(out.flatten(2, 3), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("backend", BACKENDS)
def test_padded_keys_and_values_are_zeros_that_count_in_the_softmax(backend: str) -> None:
    case = make_inputs(size=(3, 5), region_size=(4, 6), topk=1)  # one region, 24 places for 15 tokens
    q, k, v = (case.tensors[name].flatten(2, 3) for name in "qkv")
    k, v = F.pad(k, (0, 0, 0, 9)), F.pad(v, (0, 0, 0, 9))
    with ops.use_backend(backend):
        out = case.call()
    torch.testing.assert_close(out.flatten(2, 3), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_a_regions_routes_does_not_matter(backend: str) -> None:
    case = make_inputs(topk=4, weighted=True)
    routes, weights = case.arguments["routes"].flip(-1), case.tensors["route_weights"].flip(-1)
    with ops.use_backend(backend):
        torch.testing.assert_close(case.call(routes=routes, route_weights=weights), case.call())


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_routes_equal_the_same_routes_given_for_every_head(backend: str) -> None:
    case = make_inputs(heads=3, weighted=True)
    routes = case.arguments["routes"].expand(-1, 3, -1, -1)
    weights = case.tensors["route_weights"].expand(-1, 3, -1, -1)
    with ops.use_backend(backend):
        torch.testing.assert_close(case.call(routes=routes, route_weights=weights), case.call(), rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_one_change_nothing(backend: str) -> None:
    case = make_inputs()
    ones = torch.ones(case.arguments["routes"].shape)
    with ops.use_backend(backend):
        torch.testing.assert_close(case.call(route_weights=ones), case.call(), rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_is_given_on_request_and_makes_the_output(backend: str) -> None:
    case = make_inputs(size=(4, 4), region_size=(2, 2), heads=1, batch=1, weighted=True)
    case.tensors["q"].requires_grad_()
    with ops.use_backend(backend):
        out, attention = case.call(return_attention=True)
    assert attention.shape == (1, 1, 4, 4, 2 * 4)
    assert not attention.requires_grad
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 1, 4, 4))
    listed = case.arguments["routes"][0, 0, 3]  # the last region: rows 2 and 3, columns 2 and 3
    corners = [(int(r) // 2 * 2, int(r) % 2 * 2) for r in listed]
    values = torch.cat(
        [
            case.tensors["v"][0, 0, y : y + 2, x : x + 2].reshape(4, 3) * weight
            for (y, x), weight in zip(corners, case.tensors["route_weights"][0, 0, 3], strict=True)
        ]
    )
    torch.testing.assert_close(attention[0, 0, 3] @ values, out[0, 0, 2:, 2:].reshape(4, 3).detach())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", [(0, 3, 1, 2, 4), (0, 2, 3, 4, 1), (4, 3, 2, 1, 0)])
def test_strides_do_not_matter(backend: str, order: tuple[int, ...]) -> None:
    case = make_inputs(size=(5, 4), weighted=True)
    back = sorted(range(5), key=lambda axis: order[axis])
    strided = {name: case.tensors[name].permute(back).contiguous().permute(order) for name in "qkv"}
    moved = case._replace(tensors={**case.tensors, **strided})
    assert not moved.tensors["q"].is_contiguous()
    assert_all_close(moved.run(backend), case.run(backend), 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_gives_an_empty_output_and_empty_gradients(backend: str) -> None:
    got = make_inputs(batch=0, weighted=True).run(backend)
    assert got["out"].shape == (0, 2, 4, 6, 3)
    assert got["grad of k"].shape == (0, 2, 4, 6, 4)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_routes_may_be_of_either_integer_type(dtype: torch.dtype) -> None:
    case = make_inputs()
    torch.testing.assert_close(case.call(routes=case.arguments["routes"].to(dtype)), case.call(), rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_autocast_maps_of_mixed_types_become_its_dtype(backend: str) -> None:
    case = make_inputs(weighted=True)
    q, k, v = (case.tensors[name].bfloat16() for name in "qkv")
    with ops.use_backend(backend):
        expected = case.call(q=q, k=k, v=v)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = case.call(k=k)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_meta_tensors_give_the_shape(backend: str) -> None:
    case = make_inputs(size=(5, 6), weighted=True)
    tensors = {name: x.to("meta") for name, x in case.tensors.items()}
    with ops.use_backend(backend):
        out = case.call(**tensors, routes=case.arguments["routes"].to("meta"))
    assert (out.device.type, out.shape) == ("meta", (2, 2, 5, 6, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_that_need_no_gradient_get_none(backend: str) -> None:
    case = make_inputs(weighted=True)
    case.tensors["v"].requires_grad_()
    with ops.use_backend(backend):
        case.call().sum().backward()
    assert case.tensors["v"].grad is not None
    assert case.tensors["q"].grad is None
