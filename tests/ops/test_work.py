"""What the ops say of their own work, against pairs counted one by one."""

from __future__ import annotations

import contextlib

import pytest
import torch

from visionsparse import ops
from visionsparse.ops import dispatch
from visionsparse.ops.work import Work, work_of


def works_of(call) -> list[Work]:
    """The work of every op that `call` calls."""
    found = []

    @contextlib.contextmanager
    def around(op, arguments):
        yield
        found.append(work_of(op, arguments))

    with dispatch.watch_calls(around):
        call()
    return found


@pytest.mark.parametrize("op", sorted(dispatch._OPS))
def test_every_op_says_how_much_work_it_is(op):
    from visionsparse.ops.work import _FORMULAS

    assert op in _FORMULAS


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_routed_attention_counts_a_pair_for_every_listed_key(backend):
    q, k, v = torch.randn(2, 3, 8, 4, 5), torch.randn(2, 3, 6, 6, 5), torch.randn(2, 3, 6, 6, 7)
    routes = torch.randint(9, (2, 1, 8, 4))
    with ops.use_backend(backend):
        (work,) = works_of(lambda: ops.routed_attention(q, k, v, routes, region_size=(2, 2), kv_region_size=(2, 2)))

    _, attention = ops.routed_attention(
        q, k, v, routes, region_size=(2, 2), kv_region_size=(2, 2), return_attention=True
    )
    assert work.done == attention.numel() * (5 + 7)
    assert work.dense == 2 * 3 * (8 * 4) * (6 * 6) * (5 + 7)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("as_lists", [False, True], ids=["mask", "lists"])
def test_block_sparse_attention_counts_a_pair_for_every_key_in_a_live_block(backend, as_lists):
    q, k, v = torch.randn(2, 3, 11, 5), torch.randn(2, 3, 9, 5), torch.randn(2, 3, 9, 5)
    mask = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    given = ops.BlockLists.from_mask(mask) if as_lists else mask
    with ops.use_backend(backend):
        (work,) = works_of(lambda: ops.block_sparse_attention(q, k, v, given, block_size=(4, 4)))

    pairs = mask.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :11, :9].expand(2, -1, -1, -1)
    assert work == Work(done=int(pairs.sum()) * 10, dense=pairs.numel() * 10)


def test_nothing_is_watched_after_the_block():
    with dispatch.watch_calls(lambda op, arguments: contextlib.nullcontext()):
        pass
    assert dispatch._around is None
