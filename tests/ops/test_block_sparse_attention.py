"""Tests of what block-sparse attention computes, against laws; what holds for every op is in test_every_op.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.ops.block_inputs import make_inputs
from tests.ops.kit import BACKENDS, OpInputs, assert_all_close
from visionsparse import ops

every_backend = pytest.mark.parametrize("backend", BACKENDS)
# The fused path takes tiles of 32 queries and more whose keys and values are of one width.
every_path = pytest.mark.parametrize(
    "shape",
    [
        dict(),
        dict(num_queries=75, num_keys=70, block_size=(32, 16), value_channels=4),
        dict(num_queries=64, num_keys=64, block_size=(64, 32), value_channels=4),
    ],
    ids=["ragged", "fused and ragged", "fused"],
)
Shape = dict[str, Any]


def dense_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, **options)


def with_mask(case: OpInputs, mask: Any) -> OpInputs:
    return case._replace(arguments={**case.arguments, "block_mask": mask})


@every_backend
@every_path
def test_a_full_mask_equals_dense_attention(shape: Shape, backend: str) -> None:
    case = make_inputs(**shape, density=1.0)
    dense = case._replace(op=dense_attention, arguments={})
    assert_all_close(case.run(backend), dense.run(backend), 1e-5)


@every_backend
@every_path
def test_a_mask_equals_dense_attention_under_the_mask_token_by_token(shape: Shape, backend: str) -> None:
    case = make_inputs(**shape)
    case.arguments["block_mask"][..., 0] = True  # a query without a key is NaN in dense attention
    bq, bk = case.arguments["block_size"]
    mask = case.arguments["block_mask"].repeat_interleave(bq, 2).repeat_interleave(bk, 3)
    mask = mask[:, :, : case.tensors["q"].shape[2], : case.tensors["k"].shape[2]]
    dense = case._replace(op=dense_attention, arguments=dict(attn_mask=mask))
    assert_all_close(case.run(backend), dense.run(backend), 1e-5)


@every_backend
@every_path
def test_rows_without_a_key_give_zero_and_zero_gradient(shape: Shape, backend: str) -> None:
    case = make_inputs(**shape)
    case.arguments["block_mask"][0, 1, 0] = False
    rows = case.arguments["block_size"][0]
    got = case.run(backend)
    for name in ("out", "grad of q"):
        assert torch.equal(got[name][0, 1, :rows], torch.zeros_like(got[name][0, 1, :rows])), name
    assert all(x.isfinite().all() for x in got.values())


@every_backend
@every_path
def test_a_mask_of_nothing_gives_zero_everywhere(shape: Shape, backend: str) -> None:
    assert not any(x.any() for x in make_inputs(**shape, density=0.0).run(backend).values())


@every_backend
@every_path
def test_an_image_of_padding_alone_gives_zero_and_zero_gradient(shape: Shape, backend: str) -> None:
    case = make_inputs(**shape, density=1.0)
    padding = torch.ones(2, case.tensors["k"].shape[2], dtype=torch.bool)
    padding[1] = False
    got = case.run(backend, key_padding_mask=padding)
    assert not any(x[1].any() for x in got.values())
    assert all(x[0].any() for x in got.values())


@every_backend
@every_path
def test_padded_keys_count_as_little_as_keys_that_are_not_there(shape: Shape, backend: str) -> None:
    case = make_inputs(**shape, density=1.0, heads=1, batch=1)
    padding = torch.rand(1, case.tensors["k"].shape[2], generator=torch.Generator().manual_seed(0)) < 0.6
    got = case.run(backend, key_padding_mask=padding)
    tensors = {**case.tensors, **{name: case.tensors[name][:, :, padding[0]] for name in "kv"}}
    expected = case._replace(op=dense_attention, tensors=tensors, arguments={}).run(backend)
    for name in ("grad of k", "grad of v"):
        assert not got[name][:, :, ~padding[0]].any()
        got[name] = got[name][:, :, padding[0]]
    assert_all_close(got, expected, 1e-5)


@every_backend
@every_path
def test_padding_that_leaves_out_nothing_changes_nothing(shape: Shape, backend: str) -> None:
    case = make_inputs(**shape)
    padding = torch.ones(2, case.tensors["k"].shape[2], dtype=torch.bool)
    assert_all_close(case.run(backend, key_padding_mask=padding), case.run(backend), 0)


@every_backend
@pytest.mark.parametrize("padded", [False, True])
@every_path
def test_lists_equal_their_mask(shape: Shape, padded: bool, backend: str) -> None:
    case = make_inputs(**shape, padded=padded)
    lists = with_mask(case, ops.BlockLists.from_mask(case.arguments["block_mask"]))
    assert_all_close(lists.run(backend), case.run(backend), 0)


@every_backend
@pytest.mark.parametrize("shared", [(1, 2), (2, 1), (1, 1)], ids=str)
def test_a_shared_mask_equals_the_same_mask_given_for_all(shared: tuple[int, int], backend: str) -> None:
    case = make_inputs()
    mask = case.arguments["block_mask"][: shared[0], : shared[1]]
    spread = with_mask(case, mask.expand(2, 2, -1, -1))
    assert_all_close(with_mask(case, mask).run(backend), spread.run(backend), 0)


@every_backend
def test_the_order_of_the_key_blocks_does_not_matter(backend: str) -> None:
    case = make_inputs(num_keys=12, block_size=(4, 3))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    tokens = (order[:, None] * 3 + torch.arange(3)).flatten()
    moved = with_mask(case, case.arguments["block_mask"][..., order])
    moved = moved._replace(tensors={**case.tensors, **{name: case.tensors[name][:, :, tokens] for name in "kv"}})
    with ops.use_backend(backend):
        torch.testing.assert_close(moved.call(), case.call())


@every_backend
def test_a_scale_of_zero_averages_the_values(backend: str) -> None:
    case = make_inputs(density=1.0)
    with ops.use_backend(backend):
        out = case.call(scale=0.0)
    torch.testing.assert_close(out, case.tensors["v"].mean(2, keepdim=True).expand_as(out))


@every_backend
@pytest.mark.parametrize(("queries", "keys"), [(0, 11), (10, 0), (0, 0)])
def test_no_queries_or_no_keys_are_taken(queries: int, keys: int, backend: str) -> None:
    got = make_inputs(num_queries=queries, num_keys=keys).run(backend)
    assert got["out"].shape == (2, 2, queries, 3)
    assert not any(x.any() for x in got.values())


@every_backend
@pytest.mark.usefixtures("fresh_compiler")
def test_further_lengths_share_one_graph(backend: str) -> None:
    graphs = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(ops.block_sparse_attention, fullgraph=True, backend=record)
    with ops.use_backend(backend):
        for tokens in (21, 37, 49):  # none fills its last block: whole blocks, without padding, are another graph
            case = make_inputs(num_queries=tokens, num_keys=tokens + 4, padded=True)
            torch.testing.assert_close(compiled(**case.tensors, **case.arguments), case.call())
    assert len(graphs) == 2  # one for the first lengths, then one for any


@pytest.fixture
def fresh_compiler() -> None:
    torch.compiler.reset()
