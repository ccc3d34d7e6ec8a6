"""ImageNet, and whatever lies in folders like it: one reader for the real data set and the embedded one."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from visionsparse.datasets import layouts
from visionsparse.datasets.image import CorruptImage, read_image
from visionsparse.datasets.sampler import SampleKey
from visionsparse.datasets.seeding import sample_seed, seeded
from visionsparse.datasets.transforms import Transform, build_pipeline, to_tensor
from visionsparse.errors import ConfigError, DataError
from visionsparse.parts import digest
from visionsparse.registry import DATASETS

_MOST_CORRUPT_IN_A_ROW = 100


@DATASETS.register_module()
class ImageNet(Dataset):
    """Images in class folders, or ImageNet's validation images with the devkit's ground truth.

    A sample is `dict(inputs=uint8 (3, height, width) RGB, label=int, index=int)`. It is a function of (seed, epoch,
    index, repeat): see `visionsparse.datasets.seeding`.

    Labels count the classes in the order of `imagenet_class_index.json` in data_root if there is one, else in text
    order of the folder names of `train` (of `split` if there is no `train`).

    Args:
        data_root: holds `train/` and `val/`; data/README.md shows the layouts.
        split: "train" or "val", or whatever the folder is called.
        pipeline: transforms, as configs or callables, from a PIL RGB image on; the tensor is made after the last.
        seed: of the augmentation.
        allow_empty: accept classes without images.
        corrupt: what to do about an image file that can't be read: "stop", with an error that names it, or "skip": the
            next image that can be read takes its place, label and all, and every sample has `skipped`, 1 where that
            was so and `index` is that of the corrupt one. Training uses what came in its place, evaluation leaves it
            out; both count and name the skipped ones.

    Raises:
        DataError: a folder, file or label that is missing or does not fit; names it.
    """

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        pipeline: Sequence[Mapping | Transform] = (),
        seed: int = 0,
        allow_empty: bool = False,
        corrupt: str = "stop",
    ) -> None:
        if corrupt not in ("stop", "skip"):
            raise ConfigError(f"corrupt is {corrupt!r}, expected 'stop' or 'skip'.")
        root = Path(data_root).expanduser()
        folder = layouts.split_folder(root, split)
        index = layouts.read_class_index(root)
        self._names_from_index = index[1] if index else None
        classes = index[0] if index else _folder_names(root / "train")
        loose = layouts.loose_val_images(folder)
        if loose:
            self.files, self.classes = layouts.list_loose_val_images(root, folder, loose, classes)
        else:
            self.classes = classes or layouts.class_folders(folder)
            if not self.classes:
                raise DataError(f"{folder}: no class folder: expected {folder}/<class>/*.jpg, such as n01440764/.")
            self.files = layouts.list_class_folders(folder, self.classes, allow_empty)
        self.pipeline = build_pipeline(pipeline)
        self.seed = seed
        self.corrupt = corrupt

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        """The sample of a key; a bare index means epoch 0, repeat 0."""
        index, epoch, repeat = key if isinstance(key, tuple) else SampleKey(int(key))
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        image, found = self._read(index)
        with seeded(sample_seed(self.seed, epoch, index, repeat)):
            for transform in self.pipeline:
                image = transform(image)
        sample = {"inputs": to_tensor(image), "label": int(self.files.labels[found]), "index": index}
        return sample if self.corrupt == "stop" else {**sample, "skipped": int(found != index)}

    def _read(self, index: int) -> tuple[Image.Image, int]:
        """The image, and the index it is of: the next ones' where images are to be skipped."""
        tried = min(len(self), _MOST_CORRUPT_IN_A_ROW)
        for found in range(index, index + tried):
            try:
                return read_image(self.files.path(found % len(self))), found % len(self)
            except CorruptImage:
                if self.corrupt == "stop":
                    raise
        raise DataError(
            f"{self.files.path(index)}: corrupt, as are the {tried - 1} images after it. Was the folder copied whole?"
        )

    def digest(self) -> str:
        """A hash of which images there are and of what class; the images themselves are not read."""
        return digest(array.tobytes() for array in (self.files.names, self.files.ends, self.files.labels))

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Readable names, by label: of the class index file, else of WordNet (through timm), else the folder names."""
        return self._names_from_index or readable_names(self.classes)

    @property
    def metainfo(self) -> dict[str, list[str]]:
        """What mmengine stores in checkpoints, so that `infer` can name classes without the data set."""
        return {"classes": self.classes, "class_names": self.class_names}


def readable_names(classes: Sequence[str]) -> list[str]:
    """WordNet's words for classes that are WordNet numbers (n01440764: tench, Tinca tinca), others as they are."""
    if not any(re.fullmatch(r"n\d{8}", name) for name in classes):
        return list(classes)
    from timm.data import ImageNetInfo  # seconds

    descriptions = ImageNetInfo()

    def describe(name: str) -> str:
        try:
            return descriptions.label_name_to_description(name)
        except KeyError:
            return name

    return [describe(name) for name in classes]


def _folder_names(folder: Path) -> list[str] | None:
    return layouts.class_folders(folder) if folder.is_dir() else None
