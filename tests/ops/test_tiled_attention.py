"""Tests of visionsparse.ops.tiled_attention, the custom op under the torch backends.

What it computes is compared with `reference` in the tests of the ops that use it.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from visionsparse.ops.tiled_attention import tiled_attention


def make(weighted: bool, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor | None, ...]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    rows = torch.tensor([[0, 4], [2, 2], [3, 1]], dtype=torch.int32)
    return draw(3, 4, 8), draw(5, 2, 8), draw(5, 2, 3), rows, draw(3, 2) if weighted else None


@pytest.mark.newest_torch
@pytest.mark.parametrize("weighted", [False, True])
def test_the_op_and_its_derivative_pass_opcheck(weighted: bool) -> None:
    torch.library.opcheck(torch.ops.visionsparse.tiled_attention.default, (*make(weighted), 0.3))


def test_the_backward_op_passes_opcheck() -> None:
    arguments = [x if x is None else x.detach() for x in make(weighted=True, dtype=torch.bfloat16)]
    grad_out = torch.randn(3, 4, 3).bfloat16()
    torch.library.opcheck(torch.ops.visionsparse.tiled_attention_backward.default, (grad_out, *arguments, 0.3))


def test_a_second_derivative_is_refused_with_a_way_out() -> None:
    q, k, v, rows, weights = make(weighted=False)
    (grad,) = torch.autograd.grad(tiled_attention(q, k, v, rows, weights, 0.3).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivative .* under ops.use_backend\('reference'\)"):
        grad.sum().backward()


def test_a_row_out_of_range_is_an_index_error() -> None:
    q, k, v, rows, weights = make(weighted=False)
    with pytest.raises(IndexError, match="out of range"):
        tiled_attention(q, k, v, rows + 1, weights, 0.3)


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_but_the_inputs_is_kept_for_the_backward_pass(weighted: bool) -> None:
    inputs = make(weighted)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()), lambda x: x):
        tiled_attention(*inputs, 0.3)
    assert set(kept) <= {x.data_ptr() for x in inputs if x is not None}


@pytest.mark.parametrize("weighted", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(weighted: bool) -> None:
    inputs = make(weighted)
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    expected = torch.autograd.grad(tiled_attention(*inputs, 0.3).sum(), leaves)
    got = torch.autograd.grad(checkpoint(tiled_attention, *inputs, 0.3, use_reentrant=False).sum(), leaves)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_two_runs_on_two_threads_are_equal_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(200, 4, 16, generator=generator).requires_grad_() for _ in range(3))
    rows = torch.randint(0, 200, (200, 16), generator=generator, dtype=torch.int32)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(2):
            out = tiled_attention(q, k, v, rows, None, 0.25)
            runs.append([out, *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
