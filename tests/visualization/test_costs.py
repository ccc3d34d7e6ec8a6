from __future__ import annotations

import pytest
from PIL import Image

from visionsparse.errors import InputError
from visionsparse.visualization.costs import Point, draw_costs


def test_the_picture_is_written_in_the_format_of_its_name(tmp_path):
    points = [Point("small", 2.2, 13_000_000, 81.4), Point("large", 9.8, 57_000_000, 84.3)]

    path = draw_costs(points, tmp_path / "folder" / "costs.png")

    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 300


def test_nothing_to_draw_and_a_wrong_format_are_refused(tmp_path):
    with pytest.raises(InputError, match="no model has an accuracy to draw"):
        draw_costs([], tmp_path / "costs.png")
    with pytest.raises(InputError, match="not a picture format"):
        draw_costs([Point("one", 1.0, 10, 50.0)], tmp_path / "costs.txt")
