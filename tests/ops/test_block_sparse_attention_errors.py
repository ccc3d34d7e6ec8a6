"""Tests of block-sparse attention's preconditions: what was got, what was expected, what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from tests.ops.block_inputs import make_inputs
from visionsparse import ops
from visionsparse.errors import InputError


def mask(*shape: int, **options: Any) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool, **options)


def lists(index: int = 0, count: int = 1, count_dtype: torch.dtype = torch.int32, length: int = 2) -> ops.BlockLists:
    indices = torch.full((2, 2, 3, length), index, dtype=torch.int32)
    return ops.BlockLists(indices, torch.full((2, 2, 3), count, dtype=count_dtype), 4)


# q (2, 2, 10, 4), k (2, 2, 11, 4), v (2, 2, 11, 3), block_mask (2, 2, 3, 4), block_size (4, 3)
WRONG: list[tuple[dict[str, Any], str]] = [
    (dict(q=torch.zeros(2, 10, 4)), "q has 3 dimensions (2, 10, 4): give (B, H, tokens, D)."),
    (dict(q=torch.zeros(2, 2, 10, 4, dtype=torch.int64)), "q is int64: give float16, bfloat16, float32 or float64."),
    (
        dict(k=torch.zeros(2, 3, 11, 4)),
        "k has 2 images and 3 heads but q has 2 and 2: give k as (2, 2, tokens, channels).",
    ),
    (dict(k=torch.zeros(2, 2, 11, 5)), "k has width 5 but q 4: give both the same width, at least 1."),
    (dict(k=torch.zeros(2, 2, 11, 4).half()), "k is float16 but q float32: cast them to one dtype."),
    (dict(v=torch.zeros(2, 2, 11, 3, device="meta")), "v is on meta but q on cpu: move them to one device."),
    (dict(v=torch.zeros(2, 2, 10, 3)), "v has 10 tokens but k 11: give one value per key."),
    (dict(v=torch.zeros(2, 2, 11, 0)), "v has width 0: give values of a width of at least 1."),
    (dict(block_size=4), "block_size is 4: give (queries, keys) of a block."),
    (dict(block_size=(4, 0)), "block_size is (4, 0): give whole numbers of queries and keys of at least 1."),
    (dict(block_size=(4.0, 3)), "block_size is (4.0, 3): give whole numbers of queries and keys of at least 1."),
    (dict(scale=-1.0), "scale is -1.0: give a finite number of at least 0, or None for D ** -0.5."),
    (dict(scale=float("nan")), "scale is nan: give a finite number of at least 0"),
    (dict(scale=float("inf")), "scale is inf: give a finite number of at least 0"),
    (
        dict(block_mask=[[True]]),
        "block_mask is a list: give a bool tensor, ops.BlockLists or a BlockMask.",
    ),
    (
        dict(block_mask=torch.ones(2, 2, 3, 4)),
        "block_mask is float32: give bool, True where a block is attended to.",
    ),
    (
        dict(block_mask=mask(3, 4)),
        "block_mask has 2 dimensions (3, 4): give (B or 1, H or 1, query blocks, key blocks).",
    ),
    (dict(block_mask=mask(2, 2, 3, 4, device="meta")), "block_mask is on meta but q on cpu: move them to one device."),
    (
        dict(block_mask=mask(2, 3, 3, 4)),
        "block_mask is for 2 images and 3 heads but q has 2 and 2: give (2 or 1, 2 or 1, query blocks, key blocks).",
    ),
    (
        dict(block_mask=mask(2, 2, 2, 4)),
        "block_mask has 2 blocks for q but its 10 tokens make 3 blocks of 4: give a row for every query block",
    ),
    (
        dict(block_mask=ops.BlockLists.from_mask(mask(2, 2, 3, 5))),
        "block_mask has 5 blocks for k but its 11 tokens make 4 blocks of 3: give a row for every query block",
    ),
    (dict(block_mask=lists(index=4)), "BlockLists lists key block 4 of 4: number them from 0 to 3."),
    (dict(block_mask=lists(index=-1)), "BlockLists lists key block -1 of 4: number them from 0 to 3."),
    (dict(block_mask=lists(count=3)), "BlockLists counts 3 key blocks in a list of 2: give the length of each"),
    (dict(block_mask=lists(count_dtype=torch.int64)), "BlockLists has indices int32 and counts int64: give int32."),
    (
        dict(block_mask=ops.BlockLists(lists().indices[0], lists().counts, 4)),
        "BlockLists has indices (2, 3, 2) and counts (2, 2, 3): give (B or 1, H or 1, query blocks, L) and",
    ),
    (
        dict(key_padding_mask=torch.ones(2, 11)),
        "key_padding_mask is float32: give bool, True where a key takes part.",
    ),
    (
        dict(key_padding_mask=mask(2, 10)),
        "key_padding_mask is (2, 10) but k has 2 images of 11 tokens: give (2, 11).",
    ),
    (
        dict(key_padding_mask=mask(2, 11, device="meta")),
        "key_padding_mask is on meta but k on cpu: move them to one device.",
    ),
]


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(("changed", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_argument_is_named_with_what_to_do(backend: str, changed: dict[str, Any], message: str) -> None:
    case = make_inputs()
    with ops.use_backend(backend), pytest.raises(InputError, match=re.escape(message)):
        case.call(**changed)
