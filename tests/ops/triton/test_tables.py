"""Tests of what the Triton backend computes on the host: inverted routes and tile sizes."""

from __future__ import annotations

import pytest
import torch

from visionsparse import ops
from visionsparse.errors import InputError
from visionsparse.ops.triton.routed_attention import invert
from visionsparse.ops.triton.target import Target
from visionsparse.ops.triton.tiles import choose_tile


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_inverted_routes_list_every_entry_once_under_its_group_in_rising_order(dtype: torch.dtype) -> None:
    listed = torch.randint(0, 9, (2, 3, 20), generator=torch.Generator().manual_seed(0), dtype=dtype)
    order, starts = invert(listed, groups=11)  # groups 9 and 10 are named by none
    for image in range(2):
        for head in range(3):
            entries = order[image, head].tensor_split(starts[image, head, 1:-1].tolist())
            found = [(listed[image, head] == group).nonzero().flatten().tolist() for group in range(11)]
            assert [group.tolist() for group in entries] == found


@pytest.mark.parametrize("kernel", ["forward", "backward_queries", "backward_keys"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("target", [Target(80, "tf32"), Target(90, "ieee"), Target(100, "tf32")])
@pytest.mark.parametrize("width", [1, 32, 33, 256])
def test_tiles_are_no_larger_than_groups_and_lists_fill(
    kernel: str, dtype: torch.dtype, target: Target, width: int
) -> None:
    x = torch.empty(1, 1, 1, width, dtype=dtype, device="meta")
    large, small = (choose_tile(kernel, x, x, target, tokens, 8 * tokens) for tokens in (4096, 4))
    assert large.own >= small.own == 16
    assert large.listed >= small.listed and small.listed in (16, 32)
    assert 4 <= small.num_warps <= large.num_warps


def test_without_a_gpu_it_says_what_it_needs() -> None:
    q = torch.zeros(1, 1, 2, 2, 4)
    routes = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    assert "triton" in ops.backends("routed_attention")
    with ops.use_backend("triton"), pytest.raises(InputError, match="it needs tensors on an NVIDIA GPU"):
        ops.routed_attention(q, q, q, routes, region_size=(2, 2))
