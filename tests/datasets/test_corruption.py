"""A classification folder with something wrong in it: what can be read rightly is, else an error names the file."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from visionsparse.datasets import EpochSampler, ImageNet
from visionsparse.datasets.image import CorruptImage
from visionsparse.errors import ConfigError, DataError

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(NOISE)).save(file, format, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it is that large, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def flipped(content: bytes, start: int) -> bytes:
    return content[:start] + bytes(255 - value for value in content[start : start + 64]) + content[start + 64 :]


CORRUPT: dict[str, bytes] = {
    "no bytes at all": b"",
    "zeros": bytes(5000),
    "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "a text": b"n01440764_18.JPEG",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "half a JPEG": encoded("JPEG")[:2000],
    "a JPEG without its end": encoded("JPEG")[:-100],
    "half a PNG": encoded("PNG")[:5000],
    "a PNG with changed pixels": flipped(encoded("PNG"), 3000),
    "half a WebP": encoded("WEBP")[:2000],
    "a JPEG header alone": encoded("JPEG")[:200],
    "a GIF": encoded("GIF"),
    "a zip": b"PK\x03\x04" + bytes(100),
    "an image of 10 gigapixels": png_of_size(100_000, 100_000),
    "an image of 2**62 pixels": png_of_size(2**31 - 1, 2**31 - 1),
    "an image of no pixel": png_of_size(0, 0),
    "pixels that are floats": encoded("TIFF", Image.fromarray(np.ones((4, 4), np.float32))),
}

turned = Image.Exif()
turned[0x0112] = 6
palette = Image.fromarray(NOISE).quantize(16)
READABLE: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "a PNG named .jpg": (encoded("PNG"), (3, 64, 64)),
    "a WebP named .jpg": (encoded("WEBP"), (3, 64, 64)),
    "16-bit grey": (encoded("PNG", Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)), (3, 64, 64)),
    "CMYK": (encoded("JPEG", Image.fromarray(NOISE).convert("CMYK")), (3, 64, 64)),
    "turned by EXIF, as published": (encoded("JPEG", Image.new("RGB", (8, 4)), exif=turned), (3, 4, 8)),
    "a palette with alpha": (encoded("PNG", palette, transparency=0), (3, 64, 64)),
    "grey with alpha": (encoded("PNG", Image.fromarray(NOISE).convert("LA")), (3, 64, 64)),
    "an animation": (
        encoded("WEBP", Image.fromarray(NOISE), save_all=True, append_images=[Image.new("RGB", (64, 64))]),
        (3, 64, 64),
    ),
    "something behind the image": (encoded("JPEG") + bytes(100), (3, 64, 64)),
    "one pixel": (encoded("PNG", Image.new("L", (1, 1))), (3, 1, 1)),
}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ImageNet]:
    """A data set of ten images in two classes, each of one shade, the fourth of which is what is given."""

    def made(content: bytes | None = None, **arguments: object) -> ImageNet:
        for index in range(10):
            path = tmp_path / "train" / "ab"[index // 5] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (20 * index,) * 3).save(path, "PNG")
        if content is not None:
            path_of_fourth(tmp_path).write_bytes(content)
        return ImageNet(tmp_path, **arguments)

    return made


def path_of_fourth(root: Path) -> Path:
    return root / "train" / "a" / "3.jpg"


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_image_stops_with_a_line_that_names_it(
    make: Callable[..., ImageNet], tmp_path: Path, name: str
) -> None:
    dataset = make(CORRUPT[name])
    assert dataset[2]["label"] == 0

    with pytest.raises(CorruptImage) as error:
        dataset[3]

    assert str(path_of_fourth(tmp_path)) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", READABLE)
def test_an_unusual_image_is_read(make: Callable[..., ImageNet], name: str) -> None:
    content, shape = READABLE[name]
    assert tuple(make(content)[3]["inputs"].shape) == shape


def test_what_is_no_corrupt_image_stops_whatever_was_chosen(make: Callable[..., ImageNet], tmp_path: Path) -> None:
    dataset = make(corrupt="skip")
    fourth = path_of_fourth(tmp_path)

    fourth.unlink()
    with pytest.raises(DataError, match=rf"{fourth}: no such image file"):
        dataset[3]
    fourth.symlink_to("gone.jpg")
    with pytest.raises(DataError, match=rf"{fourth}: a link to a file that is gone"):
        dataset[3]
    fourth.unlink()
    fourth.mkdir()
    with pytest.raises(DataError, match=rf"{fourth}: a folder, expected an image file"):
        dataset[3]


def test_an_image_closed_to_this_user_is_named(
    make: Callable[..., ImageNet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # to root, as whom tests may run, every file is open
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    dataset = make(corrupt="skip")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(DataError, match=rf"{path_of_fourth(tmp_path)}: this user may not read it"):
        dataset[3]


def test_a_folder_named_like_an_image_and_folders_in_classes_are_left_out(
    make: Callable[..., ImageNet], tmp_path: Path
) -> None:
    make()
    (tmp_path / "train/a/x.jpg").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "train/a/x.jpg/inside.jpg")

    assert len(ImageNet(tmp_path)) == 10


def test_one_corrupt_image_among_ten_thousand_names_its_path(tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    whole = tmp_path / "train/a/0.jpg"
    Image.new("RGB", (4, 4)).save(whole)
    for index in range(1, 10_000):
        os.link(whole, tmp_path / f"train/a/{index}.jpg")
    bad = tmp_path / "train/a/7654.jpg"
    bad.unlink()
    bad.write_bytes(b"\xff\xd8\xff\xe0")
    dataset = ImageNet(tmp_path)
    at = next(index for index in range(len(dataset)) if dataset.files.path(index) == str(bad))
    sampler = EpochSampler(dataset, shuffle=False)
    sampler.start = at - at % 50

    with pytest.raises(CorruptImage, match=rf"{bad}: "):
        next(iter(DataLoader(dataset, 50, sampler=sampler, num_workers=1)))


def test_a_skipped_image_gives_its_place_to_the_next_one_and_says_so(make: Callable[..., ImageNet]) -> None:
    whole, dataset = make(), make(b"", corrupt="skip")

    sample = dataset[3]

    assert torch.equal(sample["inputs"], whole[4]["inputs"])
    assert (sample["label"], sample["index"], sample["skipped"]) == (0, 3, 1)
    assert [dataset[index]["skipped"] for index in (2, 4)] == [0, 0]
    assert "skipped" not in whole[4]


def test_the_last_image_gives_its_place_to_the_first(make: Callable[..., ImageNet], tmp_path: Path) -> None:
    dataset = make(corrupt="skip")
    (tmp_path / "train/b/9.jpg").write_bytes(b"")

    assert torch.equal(dataset[9]["inputs"], dataset[0]["inputs"])
    assert dataset[9]["label"] == dataset[0]["label"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipping_changes_neither_the_order_nor_the_batches(
    make: Callable[..., ImageNet], tmp_path: Path, num_workers: int
) -> None:
    def batches(dataset: ImageNet, start: int = 0) -> list[dict[str, torch.Tensor]]:
        sampler = EpochSampler(dataset, seed=1)
        sampler.start = start
        return list(DataLoader(dataset, 2, sampler=sampler, num_workers=num_workers))

    stopping, skipping = batches(make(corrupt="stop")), batches(make(b"", corrupt="skip"))

    assert [batch["index"].tolist() for batch in skipping] == [batch["index"].tolist() for batch in stopping]
    assert sum(int(batch["skipped"].sum()) for batch in skipping) == 1
    resumed = batches(ImageNet(tmp_path, corrupt="skip"), start=4)
    assert all(torch.equal(one["inputs"], two["inputs"]) for one, two in zip(resumed, skipping[2:], strict=True))


def test_a_folder_of_nothing_but_corrupt_images_stops_all_the_same(
    make: Callable[..., ImageNet], tmp_path: Path
) -> None:
    make()
    for path in (tmp_path / "train").glob("*/*.jpg"):
        path.write_bytes(b"")

    with pytest.raises(DataError, match=r"a/3\.jpg: corrupt, as are the 9 images after it"):
        ImageNet(tmp_path, corrupt="skip")[3]


def test_another_choice_is_refused(make: Callable[..., ImageNet]) -> None:
    with pytest.raises(ConfigError, match="corrupt is 'ignore', expected 'stop' or 'skip'"):
        make(corrupt="ignore")
