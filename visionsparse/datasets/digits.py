"""The embedded data set: 1797 handwritten digits (scans by 43 writers, bundled with scikit-learn) as an image folder.

Written at first use, then read as any image folder. The rows are ordered by writer, and the last 360 are `val`, so
that it holds writers not seen in training: a support vector machine gets 95.8 % there, logistic regression 90.6 %.
Source: https://archive.ics.uci.edu/dataset/80 (UCI, optical recognition of handwritten digits).
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from visionsparse.datasets.imagenet import ImageNet
from visionsparse.datasets.transforms import Transform
from visionsparse.errors import DataError
from visionsparse.registry import DATASETS

NUM_IMAGES = 1797
NUM_VAL = 360
IMAGE_SIZE = 32


@DATASETS.register_module()
class Digits(ImageNet):
    """The digits at `data_root`, written there if they aren't yet. Arguments as of `ImageNet`."""

    def __init__(
        self,
        data_root: str = "data/digits",
        split: str = "train",
        pipeline: Sequence[Mapping | Transform] = (),
        seed: int = 0,
    ) -> None:
        write_digits(data_root)
        super().__init__(data_root, split, pipeline, seed)


def write_digits(data_root: str | os.PathLike) -> None:
    """Writes `<split>/<digit>/<row>.png`, 32 x 32 grey, below `data_root`; leaves a whole set as it is.

    The set appears in one rename: processes that start together don't disturb each other, and a kill leaves no half.

    Raises:
        DataError: `data_root` holds something else, or can't be written.
    """
    root = Path(data_root).expanduser()
    if root.is_dir() and any(root.iterdir()):
        _check_whole(root)
        return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        # in a folder of its own, because mkdtemp's is closed to other users
        with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as folder:
            unfinished = Path(folder) / root.name
            _write_images(unfinished)
            is_first = _rename(unfinished, root)
    except OSError as error:
        raise DataError(
            f"{root}: can't write the embedded digits: {error}. Set data_root to a writable place."
        ) from error
    if is_first:
        print(f"{root}: wrote the embedded digits ({NUM_IMAGES - NUM_VAL} train and {NUM_VAL} val images).", flush=True)
    _check_whole(root)


def _rename(unfinished: Path, root: Path) -> bool:
    """Whether this process's set became `root`; not so if another one was there first."""
    try:
        unfinished.rename(root)
    except OSError:
        if not root.is_dir():
            raise
        return False
    return True


def _write_images(root: Path) -> None:
    rows = _read_rows()
    for row, values in enumerate(rows):
        folder = root / _split(row) / str(values[64])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.round(values[:64].reshape(8, 8) * (255 / 16)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        image.save(folder / f"{row}.png")


def _read_rows() -> np.ndarray:
    """(1797, 65) int64: 64 pixels of 0..16, then the digit. Importing sklearn would take 1.5 s."""
    package = importlib.util.find_spec("sklearn")
    path = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if path is None or not path.is_file():
        raise DataError("the embedded digits come with scikit-learn, which is missing: pip install scikit-learn.")
    return np.loadtxt(path, delimiter=",", dtype=np.int64)


def _check_whole(root: Path) -> None:
    """Lists 20 folders: cheap, and enough to tell a foreign or a pruned folder from the set."""
    expected = {(_split(row), f"{row}.png") for row in range(NUM_IMAGES)}
    found = {(path.parts[-3], path.name) for path in root.glob("*/[0-9]/*.png")}
    if found != expected:
        raise DataError(
            f"{root}: not the embedded digits ({len(found & expected)} of {NUM_IMAGES} images found). "
            "Remove the folder to have it written anew, or set data_root to another place."
        )


def _split(row: int) -> str:
    return "train" if row < NUM_IMAGES - NUM_VAL else "val"
