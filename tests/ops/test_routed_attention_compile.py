"""Tests of routed attention under torch.compile."""

from __future__ import annotations

import pytest
import torch

from tests.ops.routed_inputs import make_inputs
from visionsparse import ops


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("wrong", [-1, 4])
def test_compiled_code_ends_in_an_index_error_for_a_route_out_of_range(backend: str, wrong: int) -> None:
    case = make_inputs()
    routes = case.arguments["routes"].clone()
    routes[0, 0, 1, 0] = wrong
    with ops.use_backend(backend), pytest.raises(IndexError):
        torch.compile(lambda: case.call(routes=routes), fullgraph=True, backend="eager")()
