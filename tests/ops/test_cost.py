"""FLOPs and bytes, by hand."""

from __future__ import annotations

from visionsparse.ops.cost import PEAKS, AttentionSize, Cost, block_sparse_size, routed_size


def test_a_forward_pass_has_two_products_and_touches_every_map_once() -> None:
    size = AttentionSize(pairs=100, queries=10, keys=10, width=4, value_width=4)
    assert size.cost("forward", itemsize=2) == Cost(2 * 2 * 100 * 4, num_bytes=4 * 10 * 4 * 2 + 10 * 4)


def test_values_have_a_width_of_their_own() -> None:
    narrow = AttentionSize(pairs=100, queries=10, keys=10, width=4, value_width=2)
    assert narrow.cost("forward", 2).flops == 2 * 100 * (4 + 2)
    assert narrow.cost("backward", 2).flops == 2 * 100 * 2 * (4 + 2)
    assert narrow.cost("backward_queries", 2).flops == 2 * 100 * (2 * 4 + 2)  # scores and dQ; dP


def test_the_kernels_compute_the_scores_twice_more_than_a_backward_pass_must() -> None:
    size = AttentionSize(pairs=100, queries=10, keys=10, width=4, value_width=4)
    kernels = size.cost("backward_queries", 2).flops + size.cost("backward_keys", 2).flops
    assert kernels - size.cost("backward", 2).flops == 3 * 2 * 100 * 4  # scores twice, dP once


def test_sparse_sizes_count_listed_pairs() -> None:
    assert block_sparse_size(1, 8, 8192, (64, 64), listed=16, width=64).pairs == 8 * 8192 * 1024
    assert block_sparse_size(1, 1, 256, (64, 128), listed=1, width=64).pairs == 256 * 128
    assert routed_size(batch=8, heads=2, size=56, regions=7, topk=1, width=32).pairs == 8 * 2 * 56**2 * 64


def test_the_roofline_is_the_slower_of_arithmetic_and_memory() -> None:
    assert PEAKS[80].seconds("half", Cost(flops=312e12, num_bytes=1)) == 1
    assert PEAKS[80].seconds("half", Cost(flops=1, num_bytes=2.039e12)) == 1
