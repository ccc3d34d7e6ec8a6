"""Tests of visionsparse.ops.regions."""

from __future__ import annotations

import pytest
import torch

from visionsparse.ops.regions import from_regions, region_grid, to_regions


@pytest.mark.parametrize(("size", "grid"), [((2, 3), (2, 2)), ((3, 4), (2, 2)), ((4, 6), (1, 1)), ((9, 9), (1, 1))])
def test_the_grid_covers_the_map(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert region_grid(4, 6, size) == grid


def test_regions_and_their_tokens_are_row_major() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4, 1)
    expected = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    assert torch.equal(to_regions(x, (2, 2))[0, 0, :, :, 0], expected.float())


def test_what_hangs_over_the_edge_is_zero() -> None:
    regions = to_regions(torch.ones(1, 1, 3, 3, 1), (2, 2))[0, 0, :, :, 0]
    expected = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert torch.equal(regions, expected.float())


@pytest.mark.parametrize("shape", [(2, 3, 4, 6, 5), (1, 2, 5, 7, 3), (0, 2, 5, 7, 3)])
@pytest.mark.parametrize("size", [(2, 3), (1, 1), (5, 7)])
def test_from_regions_undoes_to_regions(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    x = torch.randn(shape)
    assert torch.equal(from_regions(to_regions(x, size), size, *shape[2:4]), x)


def test_joining_the_heads_of_a_map_put_together_costs_no_copy() -> None:
    x = from_regions(torch.randn(2, 3, 4, 6, 5), (2, 3), 4, 6)
    x.permute(0, 2, 3, 1, 4).view(2, 4, 6, 15)  # view raises where it would have to copy
