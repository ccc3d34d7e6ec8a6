"""What we are compared with computes the same: every baseline agrees with the op's reference, gradients too."""

from __future__ import annotations

import pytest
import torch

from visionsparse import ops
from visionsparse.benchmark import block_sparse_attention, block_sparse_baselines
from visionsparse.benchmark.block_sparse_attention import exact_mask
from visionsparse.benchmark.routed_attention import Case
from visionsparse.benchmark.routed_baselines import BASELINES, Maps, published_gather_nhwc

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", BASELINES)
def test_a_routed_form_agrees_with_reference(name: str) -> None:
    case = Case("tiny", batch=2, heads=2, size=6, regions=3, topk=4, width=4)
    maps, routes, upstream = case.draw(CPU, torch.float64)

    def run(form) -> tuple[torch.Tensor, torch.Tensor]:
        qkv = maps.qkv.clone().requires_grad_()
        function, tensors = form(Maps(qkv, maps.heads), routes, case.region_size)
        out = function(*tensors)
        return out, torch.autograd.grad(out, qkv, upstream)[0]

    def reference(maps: Maps, routes: torch.Tensor, region_size: tuple[int, int]):
        def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with ops.use_backend("reference"):
                return ops.routed_attention(q, k, v, routes, region_size=region_size)

        return function, maps.qkv_heads()

    torch.testing.assert_close(run(BASELINES[name]), run(reference))


def test_the_legacy_form_reads_keys_and_values_as_one_tensor() -> None:
    maps = Maps(torch.zeros(1, 4, 4, 12), heads=2)
    _, (q, kv) = published_gather_nhwc(maps, torch.zeros(1, 1, 4, 1, dtype=torch.int64), (2, 2))
    assert (q.shape[-1], kv.shape[-1]) == (4, 8)


@pytest.mark.parametrize("form", ["gathered_sdpa", "dense_sdpa_masked"])
def test_a_block_sparse_form_agrees_with_reference(form: str) -> None:
    mask = exact_mask(heads=2, blocks=5, listed=2, device=CPU)
    q, k, v, upstream = (torch.randn(1, 2, 20, 3, dtype=torch.float64) for _ in range(4))

    def run(function) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = function(*leaves)
        return [out, *torch.autograd.grad(out, leaves, upstream)]

    with ops.use_backend("reference"):
        expected = run(lambda *qkv: ops.block_sparse_attention(*qkv, mask, block_size=(4, 4)))
    torch.testing.assert_close(run(getattr(block_sparse_baselines, form)(mask, 4)), expected)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_backend_of_dense_attention_is_one_that_torch_has(device: str) -> None:
    case = block_sparse_attention.Case("64", tokens=64)
    forms = block_sparse_attention._dense_forms(case, torch.device(device), torch.float32)
    for name, backend, _ in forms:
        assert backend is None or name.endswith(backend.lower())
        block_sparse_baselines.dense_sdpa(backend)


def test_the_backends_of_dense_attention_agree() -> None:
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))
    default, flash, math = (
        block_sparse_baselines.dense_sdpa(name)(q, k, v) for name in (None, "FLASH_ATTENTION", "MATH")
    )
    torch.testing.assert_close(flash, default)
    torch.testing.assert_close(math, default)


@pytest.mark.slow
def test_compiled_flex_attention_agrees_with_reference() -> None:
    mask = exact_mask(heads=2, blocks=4, listed=2, device=CPU)
    q, k, v = (torch.randn(1, 2, 256, 16) for _ in range(3))
    with ops.use_backend("reference"):
        expected = ops.block_sparse_attention(q, k, v, mask)
    with torch.no_grad():
        torch.testing.assert_close(block_sparse_baselines.compiled_flex(mask, 64)(q, k, v), expected)


@pytest.mark.parametrize(("blocks", "listed"), [(64, 3), (128, 64), (5, 5)])
def test_every_row_of_an_exact_mask_lists_as_many_blocks(blocks: int, listed: int) -> None:
    mask = exact_mask(8, blocks, listed, CPU)
    assert mask.shape == (1, 8, blocks, blocks)
    assert set(mask.sum(-1).flatten().tolist()) == {listed}


def test_the_heads_of_an_exact_mask_differ() -> None:
    mask = exact_mask(2, 32, 4, CPU)
    assert not torch.equal(mask[:, 0], mask[:, 1])
