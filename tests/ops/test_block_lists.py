"""Tests of visionsparse.ops.block_lists."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from tests.ops.block_inputs import make_inputs
from tests.ops.kit import BACKENDS, assert_all_close
from visionsparse import ops
from visionsparse.errors import InputError
from visionsparse.ops import BlockLists

MASK = torch.tensor([[[[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]]]], dtype=torch.bool)


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4


def test_lists_hold_the_key_blocks_of_every_query_block_in_ascending_order() -> None:
    lists = BlockLists.from_mask(MASK)
    assert lists.counts.tolist() == [[[2, 0, 3]]]
    meant = [row[:count].tolist() for row, count in zip(lists.indices[0, 0], lists.counts[0, 0], strict=True)]
    assert meant == [[1, 2], [], [0, 2, 3]]
    assert lists.indices.shape[-1] == 3  # no longer than the longest


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (0, 2, 3, 4), (2, 2, 0, 3), (2, 2, 3, 0)])
def test_the_mask_comes_back(shape: tuple[int, ...]) -> None:
    mask = draw(*shape)
    assert torch.equal(BlockLists.from_mask(mask).to_mask(), mask)


def test_inverted_lists_are_those_of_the_transposed_mask_and_built_once() -> None:
    mask = draw(2, 3, 5, 7)
    lists = BlockLists.from_mask(mask)
    assert torch.equal(lists.inverted.to_mask(), mask.mT)
    assert lists.inverted is lists.inverted


def test_lists_say_their_size_and_not_their_numbers() -> None:
    assert repr(BlockLists.from_mask(MASK)) == "BlockLists(1 x 1 x 3 x 4, cpu)"


def flex_mask(case_mask: torch.Tensor, block_size: tuple[int, int], num_queries: int, num_keys: int) -> BlockMask:
    bq, bk = block_size

    def seen(b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return case_mask[b, h, query // bq, key // bk]

    batch, heads = case_mask.shape[:2]
    return create_block_mask(seen, batch, heads, num_queries, num_keys, device="cpu", BLOCK_SIZE=block_size)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_mask_of_whole_blocks_equals_its_mask(backend: str) -> None:
    case = make_inputs(num_queries=12, num_keys=12, block_size=(4, 3))
    given = flex_mask(case.arguments["block_mask"], (4, 3), 12, 12)
    assert_all_close(case.run(backend, block_mask=given), case.run(backend), 0)


def test_a_block_mask_without_a_function_of_tokens_means_whole_blocks() -> None:
    lists = BlockLists.from_mask(MASK)
    padded = torch.nn.functional.pad(lists.indices, (0, 1))
    given = BlockMask.from_kv_blocks(lists.counts, padded, BLOCK_SIZE=(4, 3))
    assert torch.equal(BlockLists.from_flex(given).to_mask(), MASK)


def test_partial_blocks_are_refused_in_one_line() -> None:
    given = create_block_mask(lambda b, h, q, k: q >= k, None, None, 12, 12, device="cpu", BLOCK_SIZE=4)
    q = torch.zeros(1, 1, 12, 2)
    with pytest.raises(
        InputError, match=r"block_mask has 3 partial blocks but only whole ones .* or use flex"
    ) as caught:
        ops.block_sparse_attention(q, q, q, given, block_size=(4, 4))
    assert "\n" not in str(caught.value)


def test_a_block_mask_of_another_block_size_is_refused() -> None:
    given = flex_mask(torch.ones(1, 1, 3, 4, dtype=torch.bool), (4, 3), 12, 12)
    q = torch.zeros(1, 1, 12, 2)
    with pytest.raises(InputError, match=r"blocks of \(4, 3\) but block_size is \(64, 64\): give block_size=\(4, 3\)"):
        ops.block_sparse_attention(q, q, q, given)
