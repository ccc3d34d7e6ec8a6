"""Tests of visionsparse.ops.triton.block_sparse_attention under TRITON_INTERPRET=1: run by test_interpreted.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import visionsparse.ops.triton.block_sparse_attention  # noqa: F401  (defines the ops that opcheck is given)
from visionsparse.ops import block_sparse_attention, use_backend

pytestmark = pytest.mark.usefixtures("small_tiles")


class Inputs(NamedTuple):
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor  # (B or 1, H or 1, query blocks, key blocks)
    padding: torch.Tensor | None
    block_size: tuple[int, int]

    def to(self, dtype: torch.dtype) -> Inputs:
        return self._replace(q=self.q.to(dtype), k=self.k.to(dtype), v=self.v.to(dtype))

    def run(self, function: Any) -> list[torch.Tensor]:
        """Output and the gradients of q, k and v, for one random upstream gradient."""
        tensors = [x.detach().requires_grad_() for x in self[:3]]
        out = function(*tensors, self.mask, self.padding, self.block_size)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()  # exact in every dtype
        return [out.detach(), *torch.autograd.grad(out, tensors, upstream.to(out.dtype))]


def make(
    block_size: tuple[int, int] = (16, 16),
    tokens: tuple[int, int] = (20, 40),
    mask_shape: tuple[int, int] = (1, 1),
    padded: bool = False,
    channels: tuple[int, int] = (5, 3),
    batch: int = 1,
    heads: int = 1,
) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    blocks = [-(-n // size) for n, size in zip(tokens, block_size, strict=True)]
    mask = torch.rand(*mask_shape, *blocks, generator=generator) < 0.6
    padding = torch.rand(batch, tokens[1], generator=generator) < 0.7 if padded else None
    q, k = draw(batch, heads, tokens[0], channels[0]), draw(batch, heads, tokens[1], channels[0])
    return Inputs(q, k, draw(batch, heads, tokens[1], channels[1]), mask, padding, block_size)


def lists(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return mask.sum(-1).int(), torch.argsort((~mask).int(), dim=-1, stable=True).int()


def sparse(q: Any, k: Any, v: Any, mask: torch.Tensor, padding: Any, block_size: Any) -> torch.Tensor:
    with use_backend("triton"):
        return block_sparse_attention(q, k, v, mask, block_size=block_size, scale=0.4, key_padding_mask=padding)


def dense(q: Any, k: Any, v: Any, mask: torch.Tensor, padding: Any, block_size: Any) -> torch.Tensor:
    live = mask.repeat_interleave(block_size[0], -2).repeat_interleave(block_size[1], -1)
    live = live[..., : q.shape[2], : k.shape[2]].expand(*q.shape[:2], -1, -1)
    if padding is not None:
        live = live & padding[:, None, None]
    scores = (0.4 * q @ k.mT).masked_fill(~live, float("-inf"))
    return torch.softmax(scores, -1).masked_fill(~live.any(-1, keepdim=True), 0) @ v


CASES = {
    "a tile a block": dict(),
    "several tiles a block": dict(block_size=(32, 48), tokens=(40, 60)),
    "several blocks a tile": dict(block_size=(4, 5), tokens=(10, 31)),
    "odd blocks": dict(block_size=(7, 20), tokens=(15, 41), channels=(17, 20)),
    "a mask for each head and image, padded keys": dict(
        mask_shape=(2, 2), batch=2, heads=2, padded=True, tokens=(9, 17)
    ),
    "a mask for each image, padded keys": dict(mask_shape=(2, 1), batch=2, block_size=(8, 8), padded=True),
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_output_and_every_gradient_agree_with_dense_attention(arguments: dict[str, Any]) -> None:
    case = make(**arguments)
    for got, expected in zip(case.run(sparse), case.run(dense), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def test_empty_rows_give_zero_and_zero_gradient() -> None:
    case = make(tokens=(32, 32))
    case.mask[:] = torch.tensor([[False, False], [True, False]])
    out, grad_q, grad_k, grad_v = case.run(sparse)
    assert not out[:, :, :16].any() and not grad_q[:, :, :16].any()
    assert not grad_k[:, :, 16:].any() and not grad_v[:, :, 16:].any()
    assert out[:, :, 16:].all()


def test_rows_whose_keys_are_all_padding_give_zero_and_zero_gradient() -> None:
    case = make(padded=True)
    case.padding[:] = False
    assert not any(x.any() for x in case.run(sparse))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_err_no_more_than_twice_as_much_as_dense_attention_in_them(dtype: torch.dtype) -> None:
    case = make(channels=(32, 16)).to(dtype)
    exact = case.to(torch.float64).run(dense)
    for got, plain, right in zip(case.run(sparse), case.run(dense), exact, strict=True):
        assert got.dtype == dtype
        assert (got.double() - right).norm() < 2 * (plain.double() - right).norm()


def test_both_ops_pass_opcheck() -> None:
    q, k, v, mask, padding, block_size = make(tokens=(9, 10), padded=True)
    rest = (*lists(mask), *lists(mask.mT), padding)
    inputs = (*(x.requires_grad_() for x in (q, k, v)), *rest, block_size, 0.4)
    torch.library.opcheck(torch.ops.visionsparse.block_sparse_flash.default, inputs)
    inputs = (*(x.detach() for x in (q, k, v)), *rest)
    out, lse = torch.ops.visionsparse.block_sparse_flash(*inputs, block_size, 0.4)
    arguments = (torch.randn_like(out), *inputs, out, lse, block_size, 0.4)
    torch.library.opcheck(torch.ops.visionsparse.block_sparse_flash_backward.default, arguments)
