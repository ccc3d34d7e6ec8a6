"""`find_routes` and `draw_routes`: points of the image file, followed through the model's pipeline to its regions."""

import numpy as np
import pytest
import torch
from PIL import Image

import visionsparse as vs
from visionsparse.errors import InputError

# Scales the short side to 32 and cuts out the middle 32 x 32, as evaluation does; regions of 8 pixels.
CONFIG = """
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="biformer_nano", depths=(2, 1), embed_dims=(32, 64), topks=(3, 4), regions_per_side=(4, 2), num_classes=3
    ),
)
test_dataloader = dict(dataset=dict(type="Digits", split="val", pipeline=[
    dict(type="Resize", size=32), dict(type="CenterCrop", size=32),
]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = tmp_path_factory.mktemp("pictures") / "config.py"
    config.write_text(CONFIG)
    return vs.init_model(config, device="cpu")


@pytest.fixture(scope="module")
def photo():
    """96 x 64 pixels (width x height): halved, then 8 of 48 columns are cut off on either side."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))


def test_a_point_of_the_image_is_followed_through_resize_and_crop(model, photo):
    found = vs.find_routes(model, photo, [(16, 0), (40, 20), (79, 63)], stages=[1])

    assert [record["query"] for record in found] == [[0, 0], [1, 1], [3, 3]]
    assert [record["query_box"] for record in found] == [[16, 0, 32, 16], [32, 16, 48, 32], [64, 48, 80, 64]]


def test_the_regions_are_those_that_the_net_records_best_first(model, photo):
    pixels = torch.from_numpy(np.array(model.pipeline[1](model.pipeline[0](photo)))).permute(2, 0, 1)[None]
    blocks = model.backbone.routed_regions(model.data_preprocessor({"inputs": pixels})["inputs"])

    found = vs.find_routes(model, photo, [(40, 20)], block="all")

    assert [(record["stage"], record["block"]) for record in found] == [(1, 1), (1, 2), (2, 1)]
    for record, block in zip(found, blocks, strict=True):
        rows, columns = record["grid"]
        assert (rows, columns) == block.routing.grid
        query = record["query"][0] * columns + record["query"][1]
        reads = [row * columns + column for row, column in record["regions"]]
        assert reads == block.routing.routes[0, query].tolist()
        for (row, column), (left, top, right, bottom) in zip(record["regions"], record["boxes"], strict=True):
            side = 64 / rows
            assert (left, top, right, bottom) == (
                16 + column * side,
                row * side,
                16 + (column + 1) * side,
                (row + 1) * side,
            )


def test_the_picture_is_written_in_one_call(model, photo, tmp_path):
    photo.save(tmp_path / "photo.png")

    path = vs.draw_routes(model, tmp_path / "photo.png", tmp_path / "out" / "routes.png", [(40, 20), (70, 60)])

    assert path == tmp_path / "out" / "routes.png"
    width, height = Image.open(path).size
    assert height > width > 450  # two columns; the image and two stages


def test_without_points_a_few_are_taken_that_the_net_sees(model, photo):
    found = vs.find_routes(model, photo, stages=[1])

    points = [tuple(record["point"]) for record in found]
    assert len(set(points)) == 3
    assert vs.find_routes(model, photo, points, stages=[1]) == found


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            [(10, 20)],
            r"point \(10, 20\) is cut off before the net sees the image: it sees x from 16 to 80 and y from 0",
        ),
        ([(80, 20)], r"point \(80, 20\) is cut off"),
        ([(96, 20)], r"point \(96, 20\) is outside the image of 96 x 64 pixels: give \(x, y\) from its upper left"),
        ([(40, -1)], r"point \(40, -1\) is outside the image"),
        ([(40, float("nan"))], r"point \(40, nan\) is outside the image"),
        ([40, 20], r"point 40: expected two numbers \(x, y\)"),
        ([], r"points is empty: give at least one \(x, y\)"),
    ],
)
def test_a_point_that_the_net_does_not_see_is_refused(model, photo, points, message):
    with pytest.raises(InputError, match=message):
        vs.find_routes(model, photo, points)


def test_a_net_that_routes_nothing_is_named(photo):
    full = vs.init_model("biformer_nano", device="cpu")
    full.backbone = torch.nn.Linear(2, 2)

    with pytest.raises(InputError, match=r"Linear: records no routes"):
        vs.find_routes(full, photo)


def test_a_name_without_weights_is_refused(photo):
    with pytest.raises(InputError, match=r"biformer_nano: no checkpoint given"):
        vs.find_routes("biformer_nano", photo)


def test_a_step_that_points_cannot_be_followed_through_is_named(model, photo, monkeypatch):
    def shrink(image):
        return image.resize((32, 32))

    monkeypatch.setattr(model, "pipeline", [shrink])
    with pytest.raises(InputError, match=r"shrink: points can't be followed through this step"):
        vs.find_routes(model, photo)
