"""Tests of visionsparse.ops.tiled_attention, the custom op under the torch backends.

What it computes is compared with `reference`, and opcheck is run on it, in the tests of the ops that use it.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from visionsparse.ops import tile_chunks
from visionsparse.ops.tile_attention import Fused, Products
from visionsparse.ops.tile_chunks import Listed, Lists
from visionsparse.ops.tiled_attention import tiled_attention


def make(weighted: bool = False, uneven: bool = False, value_channels: int = 3) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    # One image, one set of lists, three query tiles of 2 x 2 tokens in a row, five key tiles of 2 tokens, two heads.
    rows = torch.tensor([[[[0, 4], [2, 2], [3, 1]]]], dtype=torch.int32)
    counts, live = torch.tensor([[[1, 0, 2]]]), torch.tensor([[[[True, True]] * 3 + [[True, False]] * 2]])
    tiles = (
        draw(1, 1, 1, 3, 2, 2, 2, 8),
        draw(1, 1, 5, 1, 2, 1, 2, 8),
        draw(1, 1, 5, 1, 2, 1, 2, value_channels),
    )
    inputs = *tiles, rows, draw(1, 1, 3, 2) if weighted else None, 0.3
    return (*inputs, counts, live) if uneven else inputs


def test_a_second_derivative_is_refused_with_a_way_out() -> None:
    inputs = make()
    (grad,) = torch.autograd.grad(tiled_attention(*inputs).sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivative .* under ops.use_backend\('reference'\)"):
        grad.sum().backward()


def test_a_row_out_of_range_is_an_index_error() -> None:
    q, k, v, rows, weights, scale = make()
    with pytest.raises(IndexError, match="out of range"):
        tiled_attention(q, k, v, rows + 1, weights, scale)


kinds = pytest.mark.parametrize(
    "kind", [{}, dict(weighted=True), dict(uneven=True), dict(value_channels=8, uneven=True)], ids=str
)


@kinds
def test_nothing_but_inputs_output_and_its_log_sum_exp_is_kept_for_the_backward_pass(kind: dict[str, bool]) -> None:
    inputs = make(**kind)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        out = tiled_attention(*inputs)
    given = {x.data_ptr() for x in (*inputs, out) if isinstance(x, torch.Tensor)}
    assert [x.shape for x in kept if x.data_ptr() not in given] == [(1, 1, 1, 3, 4, 2)]


@kinds
def test_activation_checkpointing_gives_the_same_gradients(kind: dict[str, bool]) -> None:
    inputs = make(**kind)
    leaves = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    expected = torch.autograd.grad(tiled_attention(*inputs).sum(), leaves)
    got = torch.autograd.grad(checkpoint(tiled_attention, *inputs, use_reentrant=False).sum(), leaves)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("value_channels", [3, 8], ids=["products", "fused"])
def test_tiles_that_read_alike_are_computed_together_wherever_they_lie(value_channels: int) -> None:
    q, k, v, rows, _, scale, counts, live = (
        x.detach() if isinstance(x, torch.Tensor) else x for x in make(uneven=True, value_channels=value_channels)
    )
    got = tiled_attention(q, k, v, rows, None, scale, counts, live)[0, 0, 0]
    assert not got[1].any()
    for tile in (0, 2):
        listed = rows[0, 0, tile, : counts[0, 0, tile]].long()
        queries = q[0, 0, 0, tile].flatten(0, 1)
        keys, values = (x[0, 0, listed].flatten(0, 3) for x in (k, v))
        mask = live[0, 0, listed].flatten()[None, None]
        queries, keys, values = (x.transpose(0, 1) for x in (queries, keys, values))
        expected = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
        torch.testing.assert_close(got[tile].flatten(0, 1).transpose(0, 1), expected)


@kinds
@pytest.mark.parametrize("layout", ["channels first", "one for all heads", "heads first"])
def test_gradients_do_not_depend_on_where_the_channels_lie(kind: dict[str, bool], layout: str) -> None:
    def laid_out(x: torch.Tensor) -> torch.Tensor:
        if layout == "one for all heads":
            return x[..., :1, :].expand(x.shape)
        dimensions = (0, 1, 7, 2, 3, 4, 5, 6) if layout == "channels first" else (0, 1, 6, 2, 3, 4, 5, 7)
        back = sorted(range(8), key=dimensions.__getitem__)
        return x.permute(dimensions).contiguous().permute(back)

    *tiles, rows, weights, scale = (inputs := make(**kind))[:6]
    strided = [laid_out(x.detach()).requires_grad_() for x in tiles]
    plain = [x.detach().contiguous().requires_grad_() for x in strided]
    got, expected = (
        torch.autograd.grad(tiled_attention(*leaves, rows, weights, scale, *inputs[6:]).square().sum(), leaves)
        for leaves in (strided, plain)
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_keys_of_one_channel_have_gradients() -> None:
    # A query tile a chunk, of one token and two heads, head after head: what comes back of the keys is strided.
    q, v = (torch.randn(1, 1, 1, 2, 1, 1, 2, channels, requires_grad=True) for channels in (1, 2))
    k = torch.randn(2, 2).t()[None, None, None, :, None, None, :, None].requires_grad_()
    rows = torch.tensor([[[[0, 1], [1, 1]]]], dtype=torch.int32)
    with mock.patch.object(tile_chunks, "CHUNK_BYTES", 1), mock.patch.object(tile_chunks, "_LEAST_CHUNK_BYTES", 1):
        got = torch.autograd.grad(tiled_attention(q, k, v, rows, None, 0.3).square().sum(), (q, k, v))
    keys, values = (x[0, 0, 0, :, 0, 0][rows[0, 0].long()].permute(0, 2, 1, 3) for x in (k, v))
    queries = q[0, 0, 0, :, 0, 0][:, :, None]
    expected = F.scaled_dot_product_attention(queries, keys, values, scale=0.3).square().sum()
    torch.testing.assert_close(got, torch.autograd.grad(expected, (q, k, v)))


@pytest.mark.parametrize("kind", [{}, dict(weighted=True), dict(uneven=True)], ids=str)
@pytest.mark.parametrize(
    ("value_channels", "most_entries"), [(8, 1), (3, 2)], ids=["fused, in pieces", "products, whole"]
)
def test_lists_longer_than_two_cachefuls_are_read_in_pieces(
    kind: dict[str, bool], value_channels: int, most_entries: int
) -> None:
    inputs = make(value_channels=value_channels, **kind)
    leaves = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]

    def run() -> tuple[tuple[torch.Tensor, ...], list[int]]:
        with mock.patch.object(tile_chunks, "Piece", side_effect=tile_chunks.Piece) as piece:
            out = tiled_attention(*inputs)
            found = out, *torch.autograd.grad(out.square().sum(), leaves)
        return found, [call.args[1].stop - call.args[1].start for call in piece.call_args_list]

    expected, entries = run()
    assert max(entries) == 2
    with mock.patch.object(tile_chunks, "CHUNK_BYTES", 1), mock.patch.object(tile_chunks, "_LEAST_CHUNK_BYTES", 1):
        got, entries = run()
    assert max(entries) == most_entries
    torch.testing.assert_close(got, expected)


def sizes_of_chunks(query_tiles: int, threads: int, tiles_in_cache: int) -> list[int]:
    """Query tiles of each chunk where every one lists one of five key tiles."""
    keys = torch.zeros(1, 1, 5, 1, 16, 8, 2, 8)
    lists = Lists(torch.zeros(1, 1, query_tiles, 1, dtype=torch.int32), None, None, None)
    with (
        mock.patch.object(torch, "get_num_threads", return_value=threads),
        mock.patch.object(tile_chunks, "CHUNK_BYTES", tiles_in_cache * 2 * keys[:, :, :1].nbytes),
        mock.patch.object(tile_chunks, "_LEAST_CHUNK_BYTES", 1),
    ):
        chunks = list(Listed(keys, keys, lists, torch.float32).chunks(1, in_pieces=False))
    order = torch.arange(query_tiles)
    assert torch.cat([chunk.of(order) for chunk in chunks]).equal(order)
    return [len(chunk.of(order)) for chunk in chunks]


def test_a_chunk_has_as_many_tiles_for_each_thread() -> None:
    assert sizes_of_chunks(query_tiles=7, threads=2, tiles_in_cache=1) == [2, 2, 2, 1]
    assert sizes_of_chunks(query_tiles=8, threads=2, tiles_in_cache=0) == [2, 2, 2, 2]
    assert sizes_of_chunks(query_tiles=8, threads=1, tiles_in_cache=3) == [3, 3, 2]


def test_a_chunk_lists_no_more_than_there_is_however_many_threads_wait() -> None:
    assert sizes_of_chunks(query_tiles=10, threads=64, tiles_in_cache=9) == [5, 5]
    assert sizes_of_chunks(query_tiles=10, threads=2, tiles_in_cache=9) == [4, 4, 2]


@pytest.mark.parametrize(("channels", "value_channels"), [(8, 1), (1, 3)])
def test_a_lone_tile_of_one_channel_and_four_heads_is_written_where_it_lies(channels: int, value_channels: int) -> None:
    # Tiles a token wide, one a chunk: the heads of what comes back lie apart, and four of them fill 16 bytes.
    q, k, v = (torch.randn(1, 1, 1, 2, 8, 1, 4, c, requires_grad=True) for c in (channels, channels, value_channels))
    rows = torch.tensor([[[[0, 1], [1, 1]]]], dtype=torch.int32)
    with mock.patch.object(tile_chunks, "CHUNK_BYTES", 1), mock.patch.object(tile_chunks, "_LEAST_CHUNK_BYTES", 1):
        got = tiled_attention(q, k, v, rows, None, 0.3)
        gradients = torch.autograd.grad(got.square().sum(), (q, k, v))
    keys, values = (x[0, 0, 0, :, :, 0][rows[0, 0].long()].flatten(1, 2).transpose(1, 2) for x in (k, v))
    queries = q[0, 0, 0, :, :, 0].transpose(1, 2)
    expected = F.scaled_dot_product_attention(queries, keys, values, scale=0.3)
    torch.testing.assert_close(got[0, 0, 0, :, :, 0], expected.transpose(1, 2))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), (q, k, v)))


def test_the_two_ways_to_attend_inside_a_chunk_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    q, keys, values, grad_out = (
        torch.randn(3, 2, n, 8, generator=generator, dtype=torch.float64) for n in (4, 70, 70, 4)
    )
    live = torch.rand(3, 70, generator=generator) < 0.5
    fused, products = (way.forward(q, keys, values, live, 0.3) for way in (Fused, Products))
    torch.testing.assert_close(fused, products)
    grads = [way.backward(grad_out, q, keys, values, *products, live, 0.3) for way in (Fused, Products)]
    torch.testing.assert_close(*grads)
