"""What holds for every op on the Triton backend, under TRITON_INTERPRET=1: run by test_interpreted.py.

The kit's tests that need no kernel of their own: random shapes, dtypes, strides, autocast, empty batches, determinism.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ops.kit import assert_all_close, assert_as_exact_as_reference, spread_over_2_31
from tests.ops.test_every_op import OPS, STRIDED
from visionsparse import ops
from visionsparse.errors import InputError
from visionsparse.ops.routed_attention import _why_not_triton

every_op = pytest.mark.parametrize("op", OPS)
small_tiles = pytest.mark.usefixtures("small_tiles")


def check_parity(op: str, examples: int, **how: Any) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        **how,
    )
    @given(
        case=OPS[op].strategy,
        dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
        scale=st.none() | st.floats(0, 2),
    )
    def agree(case: Any, dtype: torch.dtype, scale: float | None) -> None:
        # A GPU's products of half types take half types: the softmax is rounded to one before the second product.
        assert_as_exact_as_reference(case.to(dtype), "triton", computes_in=dtype, scale=scale)

    agree()


@small_tiles
@every_op
def test_output_and_every_gradient_agree_with_reference(op: str) -> None:
    check_parity(op, 3, derandomize=True)


@pytest.mark.slow
@small_tiles
@every_op
def test_a_long_sweep_agrees_with_reference(op: str) -> None:
    check_parity(op, 10)


@every_op
def test_heads_of_256_agree_with_reference_at_their_own_tile_sizes(op: str) -> None:
    case = OPS[op].make(batch=1, heads=1, channels=256, value_channels=256)
    assert_as_exact_as_reference(case, "triton")


@small_tiles
@pytest.mark.parametrize("strided", [STRIDED["part of a wider tensor"], spread_over_2_31], ids=["wider", "2 ** 31"])
@every_op
def test_strides_do_not_matter(op: str, strided: Any) -> None:
    case = OPS[op].make(batch=1)
    assert_all_close(case.moved(strided).run("triton"), case.run("triton"), 0)


@small_tiles
@every_op
def test_an_empty_batch_gives_an_empty_output_and_empty_gradients(op: str) -> None:
    got = OPS[op].make(batch=0).run("triton")
    for name, value in OPS[op].make().run("reference").items():
        assert got[name].shape == (0, *value.shape[1:]), name


@small_tiles
@every_op
def test_two_runs_are_equal_to_the_bit(op: str) -> None:
    case = OPS[op].make()
    assert_all_close(case.run("triton"), case.run("triton"), 0)


@small_tiles
@every_op
def test_under_autocast_mixed_types_become_its_dtype(op: str) -> None:
    case = OPS[op].make(batch=1)
    rounded = case.to(torch.bfloat16, names="qkv")
    with ops.use_backend("triton"):
        expected = rounded.call()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = rounded.call(k=case.tensors["k"])
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("too_many", ["queries", "keys"])
def test_more_tokens_than_32_bits_count_are_refused(too_many: str) -> None:
    few, many = (torch.zeros(1).expand(1, 1, tokens, 1) for tokens in (4, 2**31))
    q, k = (many, few) if too_many == "queries" else (few, many)
    mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    with (
        ops.use_backend("triton"),
        pytest.raises(InputError, match=f"up to 2147483647 {too_many} of a head, not 2147483648: call it in parts"),
    ):
        ops.block_sparse_attention(q, k, k, mask, block_size=(q.shape[2], k.shape[2]))


@pytest.mark.parametrize(
    ("size", "topk", "reason"),
    [((2**16, 2**15), 1, "queries of a head"), ((1, 2), 2**31, "routes of a head")],
)
def test_larger_maps_and_route_tables_than_32_bits_count_are_refused(
    size: tuple[int, int], topk: int, reason: str
) -> None:
    x, routes = torch.zeros(1).expand(1, 1, *size, 1), torch.zeros(1, dtype=torch.int64).expand(1, 1, 1, topk)
    with ops.use_backend("triton"):
        why = _why_not_triton(q=x, k=x, v=x, routes=routes, return_attention=False)
    assert why is not None and f"up to 2147483647 {reason}, not 2147483648: call it in parts" in why
