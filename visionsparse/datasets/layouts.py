"""Where the images and labels of an ImageNet-like folder are: train and val folders, devkit, class index file.

What grows with the data set is three NumPy arrays, which forked workers share (lists of Python strings would be
copied page by page, because reading one changes its reference count).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visionsparse.errors import DataError, did_you_mean

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
CLASS_INDEX = "imagenet_class_index.json"
DEVKIT = Path("ILSVRC2012_devkit_t12/data")
GROUND_TRUTH = DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
META = DEVKIT / "meta.mat"
_LOOSE = re.compile(r"ILSVRC2012_val_(\d+)\.jpe?g", re.IGNORECASE)


@dataclass(frozen=True)
class FileList:
    """Image paths below `folder`, and their labels.

    Attributes:
        names: (bytes,) uint8, all paths one after the other.
        ends: (images + 1,) int64, path i is names[ends[i]:ends[i + 1]].
        labels: (images,) int32.
    """

    folder: Path
    names: np.ndarray
    ends: np.ndarray
    labels: np.ndarray

    @classmethod
    def from_groups(cls, folder: Path, groups: Iterable[tuple[Sequence[str], int | Sequence[int]]]) -> FileList:
        """Of (paths, their labels or the one label of all) groups."""
        joined, lengths, labels = [b""], [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
        for paths, group_labels in groups:
            encoded = [os.fsencode(path) for path in paths]
            joined.append(b"".join(encoded))
            lengths.append(np.array([len(path) for path in encoded], np.int64))
            labels.append(np.broadcast_to(np.asarray(group_labels, np.int32), len(encoded)))
        names = np.frombuffer(b"".join(joined), np.uint8)
        return cls(folder, names, np.cumsum(np.concatenate(lengths)), np.concatenate(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        name = self.names[self.ends[index] : self.ends[index + 1]].tobytes()
        return os.path.join(self.folder, os.fsdecode(name))


def split_folder(root: Path, split: str) -> Path:
    """The folder of `split`, or a DataError that shows the expected layout."""
    layout = f"expected {root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg; data/README.md shows every layout"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder: {layout}. Set the data set's data_root.")
    if not (root / split).is_dir():
        raise DataError(f"{root}: no folder {split!r}: {layout}.{did_you_mean(split, class_folders(root))}")
    return root / split


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders, in text order, hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def read_class_index(root: Path) -> tuple[list[str], list[str]] | None:
    """(folder names, readable names) in label order of the class index file; None where there is no such file."""
    path = root / CLASS_INDEX
    if not path.is_file():
        return None
    expected = 'expected {"0": ["n01440764", "tench"], ...}'
    try:
        entries = {
            int(label): (str(folder), str(name)) for label, (folder, name) in json.loads(path.read_bytes()).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: can't be read as a class index ({error}): {expected}.") from error
    for label in entries:
        if not 0 <= label < len(entries):
            raise DataError(f"{path}: label {label} is out of range: expected 0 to {len(entries) - 1}.")
    if len({folder for folder, _ in entries.values()}) < len(entries) or not entries:
        raise DataError(f"{path}: empty, or a class is named twice: {expected}, one entry per class.")
    ordered = [entries[label] for label in range(len(entries))]
    return [folder for folder, _ in ordered], [name for _, name in ordered]


def list_class_folders(folder: Path, classes: Sequence[str], allow_empty: bool) -> FileList:
    """The images in `folder/<class>/`, labelled by the class's place in `classes`.

    Raises:
        DataError: a folder that is no class, a class without a folder or without images.
    """
    known = set(classes)
    for name in class_folders(folder):
        if name not in known:
            raise DataError(
                f"{folder / name}: not one of the {len(classes)} classes. Rename or remove the folder."
                f"{did_you_mean(name, classes)}"
            )
    looked_for = " ".join(EXTENSIONS)

    def groups() -> Iterable[tuple[list[str], int]]:
        for label, name in enumerate(classes):
            exists = (folder / name).is_dir()
            images = _images(folder / name) if exists else []
            if not images and not allow_empty:
                found = f"no image (looked for {looked_for})" if exists else "no such class folder"
                cure = "Remove the folder" if exists else "Add the folder"
                raise DataError(f"{folder / name}: {found}. {cure} or set allow_empty=True.")
            yield [f"{name}/{image}" for image in images], label

    files = FileList.from_groups(folder, groups())
    if not len(files):
        raise DataError(f"{folder}: no image in any class folder (looked for {looked_for}).")
    return files


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        # a broken link counts, so that reading it names it
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".") and not entry.is_dir()
        )


def loose_val_images(folder: Path) -> list[str]:
    """The `ILSVRC2012_val_*.JPEG` that lie in `folder` itself, as the official archive leaves them."""
    with os.scandir(folder) as entries:
        loose = sorted(entry.name for entry in entries if _LOOSE.fullmatch(entry.name))
    folders = class_folders(folder) if loose else []
    if folders:
        raise DataError(
            f"{folder}: {len(loose)} loose ILSVRC2012_val_* images beside {len(folders)} class folders: was sorting "
            "them into folders cut off? Finish it, or unpack the archive anew."
        )
    return loose


def list_loose_val_images(
    root: Path, folder: Path, images: Sequence[str], classes: Sequence[str] | None
) -> tuple[FileList, list[str]]:
    """The loose validation images, labelled by the devkit's ground truth; and the classes (the devkit's if None).

    The ground truth counts classes by ILSVRC2012_ID, which is not the order of the sorted folder names: meta.mat
    maps it to them.

    Raises:
        DataError: devkit missing or unreadable, another number of labels than images, a label out of range.
    """
    for path in (root / GROUND_TRUTH, root / META):
        if not path.is_file():
            raise DataError(
                f"{path}: no such file, and {folder} has no class folders: unpack ILSVRC2012_devkit_t12.tar.gz in "
                f"{root}, or sort the images into class folders."
            )
    wnids = _read_meta(root / META)
    classes = sorted(wnids.values()) if classes is None else list(classes)
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    truth = _read_ground_truth(root / GROUND_TRUTH, wnids)
    if len(truth) != len(images):
        raise DataError(f"{root / GROUND_TRUTH}: {len(truth)} labels, but {folder} has {len(images)} images.")
    labels = []
    for image in images:
        number = int(_LOOSE.fullmatch(image)[1])  # type: ignore[index]
        if not 1 <= number <= len(truth):
            raise DataError(f"{folder / image}: no such line in {root / GROUND_TRUTH} ({len(truth)} labels).")
        wnid = wnids[truth[number - 1]]
        if wnid not in label_of:
            raise DataError(f"{folder / image}: its class {wnid} is not one of the {len(classes)} classes.")
        labels.append(label_of[wnid])
    return FileList.from_groups(folder, [(images, labels)]), classes


def _read_ground_truth(path: Path, wnids: dict[int, str]) -> list[int]:
    try:
        truth = [int(line) for line in path.read_text().split()]
    except ValueError as error:
        raise DataError(f"{path}: expected one class number a line ({error}).") from error
    for line, number in enumerate(truth, start=1):
        if number not in wnids:
            raise DataError(f"{path}:{line}: label {number} is out of range: expected 1 to {max(wnids)}.")
    return truth


def _read_meta(path: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> wnid of the classes that are labels (the leaves; meta.mat lists their ancestors too)."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        return {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if int(s["num_children"]) == 0}
    except Exception as error:  # scipy raises nearly anything on a broken file
        raise DataError(f"{path}: can't be read as the devkit's meta.mat ({error}).") from error
