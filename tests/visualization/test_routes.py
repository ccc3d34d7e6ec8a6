"""The picture of predictions and routed regions; any net with `routed_regions` takes part."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from visionsparse.errors import InputError
from visionsparse.visualization.routes import Caption, draw_predictions, routed_regions

BLACK = np.zeros((1, 32, 32, 3), dtype=np.uint8)


def block(routes, *, stage=0, number=0, grid=(4, 4), stride=4):
    routes = torch.tensor(routes).expand(1, grid[0] * grid[1], -1)
    return SimpleNamespace(
        stage=stage, block=number, stride=stride, routing=SimpleNamespace(routes=routes, grid=grid, region_size=(2, 2))
    )


def orange_pixels(path):
    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), dtype=int), -1, 0)
    return np.argwhere((red > 100) & (blue < 30) & (green > 50) & (green < 200))


def test_the_last_routed_block_of_every_stage_is_shown():
    net = nn.Identity()
    net.routed_regions = lambda inputs: [block([0]), block([1], number=1), block([2], stage=2)]

    shown = routed_regions(net, torch.zeros(1, 3, 32, 32))

    assert [(found.stage, found.block) for found in shown] == [(0, 1), (2, 0)]


def test_a_net_that_routes_nothing_has_no_routed_block():
    assert routed_regions(nn.Identity(), torch.zeros(1, 3, 32, 32)) == []


def test_a_region_is_drawn_where_it_lies_and_four_cover_four_times_as_much(tmp_path):
    one = orange_pixels(draw_predictions(BLACK, [Caption("3", 1.0)], [block([15])], tmp_path / "1.png"))
    four = orange_pixels(draw_predictions(BLACK, [Caption("3", 1.0)], [block([0, 5, 10, 15])], tmp_path / "4.png"))

    assert len(four) == pytest.approx(4 * len(one), rel=0.15)
    assert one.min(axis=0)[0] > four.min(axis=0)[0] + 100  # region 15 lies in the lowest row, region 0 in the highest
    assert one.max(axis=0) == pytest.approx(four.max(axis=0), abs=1)


def test_a_region_that_hangs_over_the_edge_is_cut_at_the_image(tmp_path):
    whole = orange_pixels(draw_predictions(BLACK, [Caption("3", 1.0)], [block([15])], tmp_path / "1.png"))
    hanging = block([15], stride=5)

    cut = orange_pixels(draw_predictions(BLACK, [Caption("3", 1.0)], [hanging], tmp_path / "2.png"))

    assert 0 < len(cut) < len(whole)


def test_a_net_without_routes_gets_its_predictions_drawn(tmp_path):
    captions = [Caption("tiger shark, Galeocerdo cuvieri", 0.9), Caption("3", 0.4, true_name="5")]

    path = draw_predictions(np.concatenate([BLACK, BLACK]), captions, [], tmp_path / "p.png")

    assert Image.open(path).size[0] > 400  # the two beside each other


@pytest.mark.parametrize("query", [(1.0, 0.5), (0.5, -0.1)])
def test_a_query_point_outside_the_image_is_refused(tmp_path, query):
    with pytest.raises(InputError, match=r"query .* is outside the image: give \(down, across\) as fractions"):
        draw_predictions(BLACK, [Caption("3", 1.0)], [], tmp_path / "p.png", query=query)


def test_one_caption_per_image_is_asked_for(tmp_path):
    with pytest.raises(InputError, match=r"1 images but 2 captions: give one per image"):
        draw_predictions(BLACK, [Caption("3", 1.0)] * 2, [], tmp_path / "p.png")
