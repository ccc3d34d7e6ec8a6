"""Tests of visionsparse.ops.onednn_attention: that it attends as the other ways do, and where it is taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch

from tests.ops.block_inputs import make_inputs
from tests.ops.kit import assert_as_exact_as_reference
from visionsparse.ops import onednn_attention as module
from visionsparse.ops.onednn_attention import onednn_attention, pays
from visionsparse.ops.tile_attention import Products

pytestmark = [
    pytest.mark.newest_torch,
    pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"),
]


@pytest.fixture
def mkl_leaves_avx512() -> Iterator[None]:
    """As on AMD's Zen 5."""
    with mock.patch.object(module, "_has_what_mkl_leaves", return_value=True):
        yield


@pytest.mark.parametrize("partly_live", [False, True])
def test_it_attends_as_batched_products_do(partly_live: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(tokens: int, channels: int) -> torch.Tensor:
        return torch.randn(3, 1, tokens, channels, generator=generator)

    q, keys, values = draw(5, 8), draw(70, 8), draw(70, 4)
    live = torch.rand(3, 70, generator=generator) < 0.5 if partly_live else None
    got, expected = (attend(q, keys, values, live, 0.3) for attend in (onednn_attention, Products.forward))
    torch.testing.assert_close(got, expected)


@pytest.mark.usefixtures("mkl_leaves_avx512")
@pytest.mark.parametrize("changed", [dict(padded=True), dict(heads=3, shared_over_heads=True, as_lists=True)], ids=str)
def test_what_it_gives_and_its_gradients_are_as_exact_as_those_of_the_reference(changed: dict[str, Any]) -> None:
    case = make_inputs(channels=4, value_channels=4, **changed)
    with (
        mock.patch.object(module, "_LEAST_WORK", 0),
        mock.patch.object(module, "onednn_product", wraps=module.onednn_product) as product,
    ):
        assert_as_exact_as_reference(case, "torch")
    second = [call.args[1] for call in product.call_args_list]
    assert second and all(matrix.is_contiguous() or matrix.mT.is_contiguous() for matrix in second)  # no slow loop


@pytest.mark.usefixtures("mkl_leaves_avx512")
def test_it_is_taken_where_a_product_is_large_enough_for_all_threads() -> None:
    q, keys = torch.empty(1, 1, 64, 64), torch.empty(1, 1, 2048, 64)  # 8 M multiply-adds
    for threads, taken in ((1, True), (2, True), (3, False)):
        with mock.patch.object(torch, "get_num_threads", return_value=threads):
            assert pays(q, keys) is taken
    assert not pays(q.double(), keys.double())


@pytest.mark.usefixtures("mkl_leaves_avx512")
def test_it_is_not_taken_where_the_scores_of_a_tile_take_more_than_the_cache() -> None:
    keys = torch.empty(1, 1, 8192, 64)
    with mock.patch.object(torch, "get_num_threads", return_value=1):
        assert pays(torch.empty(1, 1, 128, 64), keys)
        assert not pays(torch.empty(1, 1, 129, 64), keys)


@pytest.mark.usefixtures("mkl_leaves_avx512")
def test_it_is_not_taken_where_heads_lie_side_by_side() -> None:  # oneDNN took 600 times as long there
    q, keys = torch.empty(1, 64, 2, 64).transpose(1, 2), torch.empty(1, 2048, 2, 64).transpose(1, 2)
    with mock.patch.object(torch, "get_num_threads", return_value=1):
        assert pays(q[:, :1].contiguous(), keys[:, :1].contiguous())
        assert not pays(q, keys)


@pytest.mark.parametrize(
    ("cpu", "avx_vnni", "taken"),
    [("AMD EPYC 9555", True, True), ("AMD EPYC 9554", False, False), ("Intel(R) Xeon(R) Platinum 8488C", True, False)],
)
def test_it_is_taken_on_a_zen_5_alone(cpu: str, avx_vnni: bool, taken: bool) -> None:
    told = {"cpu_name": cpu, "avx_vnni": avx_vnni}
    with (
        mock.patch.object(torch.backends.cpu, "get_cpu_capability", return_value="AVX512"),
        mock.patch.object(torch.cpu, "get_capabilities", return_value=told, create=True),
    ):
        assert module._has_what_mkl_leaves.__wrapped__() is taken  # what is under the cache
