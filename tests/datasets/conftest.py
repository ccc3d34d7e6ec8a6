from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionsparse.datasets.digits import write_digits


def save_image(path: Path, shade: int = 0, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


@pytest.fixture
def make_folders(tmp_path: Path) -> Callable[[dict[str, list[str]]], Path]:
    """Writes images: {"train/n01440764": ["a.jpg", ...]} below a data root, each in a shade of its own."""

    def make(folders: dict[str, list[str]]) -> Path:
        shade = 0
        for folder, names in folders.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for name in names:
                shade += 1
                save_image(tmp_path / folder / name, shade)
        return tmp_path

    return make


@pytest.fixture
def noise_folder(tmp_path: Path) -> Path:
    """A data root of 12 images of noise in two classes."""
    rng = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / "train" / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "digits"
    write_digits(root)
    return root
