"""Tests of visionsparse.ops.masked_routes: where routed attention is computed under a mask. Its parity with `reference`
is among the tests of every op."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ops.kit import assert_all_close, recorded_custom_ops
from tests.ops.routed_inputs import make_inputs

# BiFormer's third stage, with one head: 14 x 14 tokens, 7 x 7 regions of 2 x 2, 16 routed.
THIRD_STAGE: dict[str, Any] = dict(
    size=(14, 14), region_size=(2, 2), topk=16, channels=4, value_channels=4, batch=1, heads=1
)


def is_masked(**changed: Any) -> bool:
    """Whether no tile was gathered."""
    with recorded_custom_ops() as calls:
        make_inputs(**{**THIRD_STAGE, **changed}).run("torch")
    return not calls


def test_a_small_map_with_a_third_routed_is_computed_under_a_mask() -> None:
    assert is_masked()


@pytest.mark.parametrize(
    "changed",
    [
        dict(topk=12),  # less than a quarter
        dict(size=(28, 28), region_size=(4, 4)),
        dict(size=(32, 32), topk=64),
        dict(size=(13, 14)),  # zeros over the edge take part in the softmax
        dict(kv_size=(14, 13)),
        dict(kv_size=(28, 28), kv_region_size=(4, 4)),
        dict(weighted=True),
        dict(value_channels=3),
        dict(heads=2, shared_routes=False),
    ],
    ids=str,
)
def test_tiles_are_gathered_elsewhere(changed: dict[str, Any]) -> None:
    assert not is_masked(**changed)


def test_a_region_listed_twice_counts_twice() -> None:
    case = make_inputs(**THIRD_STAGE)
    routes = case.arguments["routes"].clone()
    routes[..., 1] = routes[..., 0]
    assert_all_close(case.run("torch", routes=routes), case.run("reference", routes=routes), 1e-5)


def test_the_output_joins_its_heads_without_a_copy() -> None:
    out = make_inputs(**{**THIRD_STAGE, "heads": 2}).call()
    assert out.permute(0, 2, 3, 1, 4).is_contiguous()


def test_two_runs_are_equal_to_the_bit() -> None:
    case = make_inputs(**{**THIRD_STAGE, "heads": 2, "batch": 2})
    assert_all_close(case.run("torch"), case.run("torch"), 0)


def test_half_types_are_computed_in_float32() -> None:
    case = make_inputs(**THIRD_STAGE, dtype=torch.bfloat16)
    got, exact = case.call(), case.to(torch.float64).call()
    assert ((got.double() - exact).abs() <= torch.finfo(torch.bfloat16).eps / 2 * exact.abs() + 1e-5).all()
