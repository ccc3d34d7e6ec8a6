"""Tests of what routed attention computes, against laws; what holds for every op is in test_every_op.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.ops.kit import BACKENDS
from tests.ops.routed_inputs import make_inputs
from visionsparse import ops


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


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_routes_may_be_of_either_integer_type(dtype: torch.dtype) -> None:
    case = make_inputs()
    torch.testing.assert_close(case.call(routes=case.arguments["routes"].to(dtype)), case.call(), rtol=0, atol=0)
