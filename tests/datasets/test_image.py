from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visionsparse.datasets import read_image, to_rgb
from visionsparse.errors import DataError, InputError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def save(image: Image.Image, path: Path, **kwargs) -> Path:
    image.save(path, **kwargs)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff"])
def test_every_listed_format_is_read_as_rgb(tmp_path, suffix):
    path = save(Image.new("RGB", (5, 7), (200, 100, 50)), tmp_path / f"x.{suffix}")
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (5, 7))
    assert np.abs(np.asarray(image).astype(int) - [200, 100, 50]).max() <= 4


def test_an_open_file_is_read_and_left_open():
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(file, "PNG")
    file.seek(0)
    assert read_image(file).getpixel((0, 0)) == (1, 2, 3)
    assert not file.closed


def test_grey_repeats_its_value(tmp_path):
    image = read_image(save(Image.fromarray(RAMP), tmp_path / "grey.png"))
    assert np.array_equal(np.asarray(image), np.stack([RAMP] * 3, axis=-1))


def test_black_and_white_becomes_0_and_255(tmp_path):
    image = read_image(save(Image.fromarray(RAMP).convert("1"), tmp_path / "bits.png"))
    assert set(np.unique(np.asarray(image))) == {0, 255}


def palette_image() -> Image.Image:
    image = Image.fromarray(RAMP % 2).convert("P")
    image.putpalette([10, 20, 30, 200, 150, 100] + [0] * 762)
    return image


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80"])
def test_palette_gives_its_colours_with_and_without_transparency(tmp_path, transparency, recwarn):
    options = {} if transparency is None else {"transparency": transparency}
    image = read_image(save(palette_image(), tmp_path / "palette.png", **options))
    assert np.asarray(image)[0, :2].tolist() == [[10, 20, 30], [200, 150, 100]]
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped(tmp_path, mode):
    image = Image.new("RGB", (4, 4), (90, 90, 90)).convert(mode)
    image.putalpha(7)
    assert read_image(save(image, tmp_path / "alpha.png")).getpixel((0, 0)) == (90, 90, 90)


def test_cmyk_is_converted(tmp_path):
    image = read_image(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.jpg", quality=95))
    red, green, blue = image.getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    image = read_image(save(Image.fromarray(values), tmp_path / f"deep.{suffix}"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_mode_i_within_16_bits_is_scaled(tmp_path):
    image = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert image.mode == "I"
    assert np.asarray(read_image(save(image, tmp_path / "i.tiff")))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.array([[70000]], np.int32), "70000 to 70000, expected 8 or 16"), (np.ones((2, 2), np.float32), "floating")],
)
def test_deeper_pixels_are_refused(tmp_path, values, message):
    path = save(Image.fromarray(values), tmp_path / "deep.tiff")
    with pytest.raises(DataError, match=f"deep.tiff: .*{message}"):
        read_image(path)


def test_one_pixel_is_an_image(tmp_path):
    assert read_image(save(Image.new("RGB", (1, 1)), tmp_path / "dot.png")).size == (1, 1)


def test_exif_orientation_is_ignored_as_in_the_published_protocol(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(save(Image.new("RGB", (6, 3)), tmp_path / "turned.jpg", exif=exif)).size == (6, 3)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jpg: no such image file"):
        read_image(tmp_path / "absent.jpg")


def test_a_folder_is_named_as_such(tmp_path):
    with pytest.raises(DataError, match="a folder, expected an image file"):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF89a" + bytes(40)], ids=repr)
def test_what_is_no_image_of_a_listed_format_is_refused_and_named(tmp_path, content):
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.jpg: (not an image of a known format|corrupt)"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_truncated_image_is_refused_and_named(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"half.{suffix}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DataError, match=rf"half\.{suffix}: (corrupt or truncated|not an image)"):
        read_image(path)


def test_a_png_with_damaged_data_is_refused_and_named(tmp_path):
    path = save(Image.fromarray(RAMP), tmp_path / "hurt.png")
    content = bytearray(path.read_bytes())
    content[60:70] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"hurt\.png: corrupt or truncated"):
        read_image(path)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(Image.new("1", (150, 10)), tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"huge\.png: too large \(over 1000 pixels\)"):
        read_image(path)


PIXELS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        np.ascontiguousarray(PIXELS[:, ::-1])[:, ::-1],
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255,
        torch.from_numpy(PIXELS).permute(2, 0, 1).double().requires_grad_(False) / 255,
    ],
    ids=["pil", "array", "strided", "uint8 tensor", "float tensor", "double tensor"],
)
def test_every_form_of_an_image_gives_the_same_pixels(image):
    assert np.array_equal(np.asarray(to_rgb(image)), PIXELS)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS[..., 0], r"array \(5, 7\) of uint8: expected \(height, width, 3\) of uint8"),
        (PIXELS.astype(np.float32), "of float32: expected"),
        (np.moveaxis(PIXELS, 2, 0), r"array \(3, 5, 7\)"),
        (PIXELS[:0], r"array \(0, 7, 3\)"),
        (torch.zeros(5, 7, 3), r"tensor \(5, 7, 3\) of torch.float32: expected \(3, height, width\)"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "of torch.int64: expected"),
        (torch.full((3, 2, 2), 2.0), r"values from 2 to 2: expected \[0, 1\]"),
        (torch.full((3, 2, 2), float("nan")), "values from nan"),
        (Image.new("F", (2, 2)), "mode 'F': floating point pixels"),
        ([1, 2], "list: expected a PIL image"),
    ],
)
def test_other_inputs_are_refused_with_what_was_expected(image, message):
    with pytest.raises(InputError, match=message):
        to_rgb(image)
