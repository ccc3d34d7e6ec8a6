"""Tests of routed attention under torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.ops.routed_inputs import make_inputs
from visionsparse import ops


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.newest_torch
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_full_graph_gives_the_same_output_and_gradients(backend: str) -> None:
    case = make_inputs(size=(5, 6), weighted=True)
    values = [x.requires_grad_() for x in case.tensors.values()]
    upstream = torch.randn(2, 2, 5, 6, 3)

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return case.call(q=q, k=k, v=v, route_weights=weights)

    with ops.use_backend(backend):
        expected = torch.autograd.grad(function(*values), values, upstream)
        out = torch.compile(function, fullgraph=True, backend="aot_eager")(*values)
        got = torch.autograd.grad(out, values, upstream)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(out, function(*values))


def test_further_batch_sizes_share_one_graph() -> None:
    graphs = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(ops.routed_attention, fullgraph=True, backend=record)
    for batch in (2, 3, 5):
        case = make_inputs(batch=batch)
        torch.testing.assert_close(compiled(**case.tensors, **case.arguments), case.call())
    assert len(graphs) == 2  # one for a batch of 2, then one for any batch


def test_compiled_code_follows_use_backend() -> None:
    used = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        used.append("torch" if "tiled_attention" in graph.code else "reference")
        return graph.forward

    case = make_inputs()
    compiled = torch.compile(lambda: case.call(), fullgraph=True, backend=record)
    compiled()
    with ops.use_backend("reference"):
        compiled()
    compiled()  # still there from the first time
    assert used == ["torch", "reference"]


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("wrong", [-1, 4])
def test_compiled_code_ends_in_an_index_error_for_a_route_out_of_range(backend: str, wrong: int) -> None:
    case = make_inputs()
    routes = case.arguments["routes"].clone()
    routes[0, 0, 1, 0] = wrong
    with ops.use_backend(backend), pytest.raises(IndexError):
        torch.compile(lambda: case.call(routes=routes), fullgraph=True, backend="eager")()
