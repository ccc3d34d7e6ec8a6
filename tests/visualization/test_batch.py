"""The picture of a batch's samples, and the words above them."""

import numpy as np
import pytest
from PIL import Image

from visionsparse.errors import InputError
from visionsparse.visualization.batch import draw_samples, target_caption


def draw(path, num, *, versions=2, colour=(255, 0, 0)):
    images = np.full((num, 8, 8, 3), colour, dtype=np.uint8)
    names = [f"epoch {version + 1}" for version in range(versions)]
    captions = [["cat"] + [""] * versions] * num
    return draw_samples(list(images), [images] * versions, captions, path, version_names=names)


@pytest.mark.parametrize("num", [1, 3, 5, 13])
def test_every_sample_is_drawn_with_its_versions(tmp_path, num):
    picture = np.asarray(Image.open(draw(tmp_path / "b.png", num)).convert("RGB"))

    red = (picture == (255, 0, 0)).all(axis=-1).sum()
    assert red == pytest.approx(3 * num * (1.5 * 110) ** 2, rel=0.35)


def test_the_same_batch_gives_the_same_file(tmp_path):
    assert draw(tmp_path / "1.png", 3).read_bytes() == draw(tmp_path / "2.png", 3).read_bytes()


@pytest.mark.parametrize(
    ("target", "caption"),
    [
        (1, "tabby"),
        (np.array([0.0, 1.0, 0.0]), "100 % tabby"),
        (np.array([0.7, 0.0, 0.3]), "70 % tench\n30 % axolotl"),
        (np.array([0.34, 0.33, 0.33]), "34 % tench\n33 % tabby\n33 % axolotl"),
        (np.full(3, 0.01), "1 % tench"),
    ],
)
def test_a_target_is_told_by_its_largest_shares(target, caption):
    assert target_caption(target, ["tench, Tinca tinca", "tabby, tabby cat", "axolotl"]) == caption


def test_numbers_that_differ_are_refused(tmp_path):
    image = np.zeros((8, 8, 3), dtype=np.uint8)

    with pytest.raises(InputError, match=r"2 originals, 1 captions, versions of \[1\] samples and 1 version names"):
        draw_samples([image] * 2, [image[None]], [["cat", ""]], tmp_path / "b.png", version_names=["epoch 1"])
