"""The grid of routed regions: a row per block, a column per point; for any net that records routes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from visionsparse.errors import InputError
from visionsparse.visualization.route_grid import draw_route_grid
from visionsparse.visualization.routes import region_at, region_box, routed_regions


def block(routes, *, stage=0, number=0, grid=(4, 4), region_size=(2, 2), stride=4):
    """Every region reads `routes`, best first."""
    routes = torch.tensor(routes).expand(1, grid[0] * grid[1], -1)
    routing = SimpleNamespace(routes=routes, grid=grid, region_size=region_size)
    return SimpleNamespace(stage=stage, block=number, stride=stride, routing=routing)


def black(height=32, width=32):
    return np.zeros((height, width, 3), dtype=np.uint8)


def coloured(path, name):
    """Where the picture is orange, or blue, off the legend: (pixels, 2) of (row, column)."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), dtype=int), -1, 0)
    found = (red > 50) & (blue < 30) & (red > green) if name == "orange" else (blue > 120) & (red < 40)
    return np.argwhere(found[: int(0.9 * len(found))])


def test_a_region_holds_its_points_and_regions_count_row_by_row():
    wide = block([0], grid=(2, 4), region_size=(3, 2), stride=5)

    assert region_box(wide, 6) == (20, 15, 30, 30)
    assert [region_at(wide, point) for point in [(0, 0), (10, 0), (29.9, 29.9), (20, 15)]] == [0, 1, 6, 6]


def test_the_strongest_choice_is_the_most_saturated(tmp_path):
    path = draw_route_grid(black(), [block([0, 15])], [(12, 12)], tmp_path / "r.png")

    picture = np.asarray(Image.open(path).convert("RGB"), dtype=int)
    rows, columns = coloured(path, "orange").T
    upper_left = picture[rows.min() + 12, columns.min() + 12]
    lower_right = picture[rows.max() - 12, columns.max() - 12]
    assert upper_left[0] > 2 * lower_right[0] > 0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 64)])
def test_every_block_adds_a_row_and_every_point_a_column(tmp_path, height, width):
    def size(num_blocks, num_points):
        blocks = [block([5], stage=stage, region_size=(2, width // 16)) for stage in range(num_blocks)]
        path = draw_route_grid(black(height, width), blocks, [(9, 9)] * num_points, tmp_path / "r.png")
        return np.array(Image.open(path).size)

    one, two_points, two_blocks = size(1, 3), size(1, 4), size(2, 3)

    panel = 2.3 * 110 * np.array([width, height]) / max(width, height)  # pixels
    assert two_points - one == pytest.approx([panel[0], 0], abs=20)
    assert two_blocks - one == pytest.approx([0, panel[1]], abs=20)


def test_a_region_in_the_padding_is_drawn_beside_the_image(tmp_path):
    """4 x 4 regions of 8 pixels on an image of 32 x 20: the last row covers padding only."""
    path = draw_route_grid(black(20, 32), [block([15])], [(1, 1)], tmp_path / "r.png")

    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), dtype=int)[:-60], -1, 0)  # no legend
    image_rows = np.flatnonzero((red + green + blue == 0).sum(axis=1) > 100)
    orange_rows = np.flatnonzero(((red > 150) & (blue < 140) & (red > green + 20)).any(axis=1))
    assert len(orange_rows) > 50
    assert orange_rows.min() > image_rows.max()


def test_the_point_lies_in_its_blue_region(tmp_path):
    path = draw_route_grid(black(), [block([0])], [(28, 28)], tmp_path / "r.png")

    rows, columns = coloured(path, "blue").T
    orange_rows, orange_columns = coloured(path, "orange").T
    assert columns.min() > orange_columns.max()
    assert rows.max() > orange_rows.max()


def net(*blocks):
    module = nn.Identity()
    module.routed_regions = lambda inputs: list(blocks)
    return module


NET = net(block([0]), block([1], number=1), block([2], stage=2), block([3], stage=2, number=1))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (dict(), [(0, 1), (2, 1)]),
        (dict(block="all"), [(0, 0), (0, 1), (2, 0), (2, 1)]),
        (dict(block=1), [(0, 0), (2, 0)]),
        (dict(stages=[3]), [(2, 1)]),
        (dict(stages=[3], block="all"), [(2, 0), (2, 1)]),
    ],
)
def test_stages_and_blocks_are_chosen_by_their_number_from_1(chosen, expected):
    found = routed_regions(NET, torch.zeros(1, 3, 32, 32), **chosen)

    assert [(routed.stage, routed.block) for routed in found] == expected


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (dict(stages=[2]), r"stage 2 has no routed block: expected one of 1, 3\."),
        (dict(block=3), r"block 3: expected 'last', 'all' or the number of a routed block \(stage\.block: 1\.1, 1\.2"),
        (dict(block="first"), r"block first: expected 'last', 'all' or"),
    ],
)
def test_a_stage_or_block_that_routes_nothing_is_refused_with_those_that_do(chosen, message):
    with pytest.raises(InputError, match=message):
        routed_regions(NET, torch.zeros(1, 3, 32, 32), **chosen)


@pytest.mark.parametrize(
    ("blocks", "points", "message"),
    [
        ([], [(1, 1)], r"0 routed blocks and 1 points: expected at least one of each"),
        ([block([0])], [], r"1 routed blocks and 0 points"),
        ([block([0])], [(32, 1)], r"point \(32, 1\) is outside the image of 32 x 32 pixels"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, blocks, points, message):
    with pytest.raises(InputError, match=message):
        draw_route_grid(black(), blocks, points, tmp_path / "r.png")
