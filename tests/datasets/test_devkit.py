"""ImageNet's validation images as the official archives leave them: loose, with the devkit's ground truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.io import savemat

from visionsparse.datasets import ImageNet
from visionsparse.errors import DataError

# ILSVRC2012_ID 1, 2, 3, then an ancestor: not in the order of the names, as in the real meta.mat
WNIDS = ["n02119789", "n02100735", "n02110185", "n00000001"]
BY_NAME = ["n02100735", "n02110185", "n02119789"]
TRUTH = [3, 1, 2, 1]
DEVKIT = "ILSVRC2012_devkit_t12/data"


def write_devkit(root, truth=TRUTH):
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(float(id), wnid, "words", float(id == 4)) for id, wnid in enumerate(WNIDS, start=1)]
    folder = root / DEVKIT
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "meta.mat", {"synsets": np.array(rows, fields).reshape(-1, 1)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))


@pytest.fixture
def root(make_folders):
    root = make_folders({"val": [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(TRUTH) + 1)]})
    write_devkit(root)
    return root


def wnids_of(dataset):
    return [dataset.classes[label] for label in dataset.files.labels]


def test_labels_go_through_the_wnid_to_the_sorted_classes(root):
    val = ImageNet(root, split="val")
    assert val.classes == BY_NAME
    assert wnids_of(val) == [WNIDS[number - 1] for number in TRUTH]
    assert val.files.path(0).endswith("val/ILSVRC2012_val_00000001.JPEG")
    assert val[1]["label"] == 2


def test_the_train_folders_set_the_classes(root, make_folders):
    make_folders({f"train/{wnid}": ["a.jpg"] for wnid in ["n01440764", *BY_NAME]})
    val = ImageNet(root, split="val")
    assert val.classes == ["n01440764", *BY_NAME]
    assert wnids_of(val) == [WNIDS[number - 1] for number in TRUTH]


def test_a_class_index_file_sets_the_classes(root):
    index = {str(label): [wnid, "name"] for label, wnid in enumerate(BY_NAME[::-1])}
    (root / "imagenet_class_index.json").write_text(json.dumps(index))
    val = ImageNet(root, split="val")
    assert val.classes == BY_NAME[::-1]
    assert wnids_of(val) == [WNIDS[number - 1] for number in TRUTH]


@pytest.mark.parametrize("file", ["meta.mat", "ILSVRC2012_validation_ground_truth.txt"])
def test_a_missing_devkit_file_is_named_with_the_archive_it_is_in(root, file):
    (root / DEVKIT / file).unlink()
    with pytest.raises(DataError, match=rf"{file}: no such file, and .*unpack ILSVRC2012_devkit_t12\.tar\.gz"):
        ImageNet(root, split="val")


def test_a_ground_truth_of_another_length_is_refused(root):
    write_devkit(root, [1, 2, 3])
    with pytest.raises(DataError, match=r"ground_truth\.txt: 3 labels, but .*val has 4 images"):
        ImageNet(root, split="val")


@pytest.mark.parametrize("label", [0, 4, 1001, -1])
def test_a_label_out_of_range_is_named_with_its_line(root, label):
    write_devkit(root, [3, 1, label, 1])
    with pytest.raises(DataError, match=rf"ground_truth\.txt:3: label {label} is out of range: expected 1 to 3"):
        ImageNet(root, split="val")


def test_a_ground_truth_that_is_no_list_of_numbers_is_refused(root):
    (root / DEVKIT / "ILSVRC2012_validation_ground_truth.txt").write_text("1\ntwo\n3\n4\n")
    with pytest.raises(DataError, match=r"ground_truth\.txt: expected one class number a line .*'two'"):
        ImageNet(root, split="val")


def test_an_image_number_beyond_the_ground_truth_is_refused(root):
    (root / "val/ILSVRC2012_val_00000004.JPEG").rename(root / "val/ILSVRC2012_val_00000009.JPEG")
    with pytest.raises(DataError, match=r"val_00000009\.JPEG: no such line in .*\(4 labels\)"):
        ImageNet(root, split="val")


def test_a_true_class_that_is_not_among_the_classes_is_refused(root, make_folders):
    make_folders({f"train/{wnid}": ["a.jpg"] for wnid in BY_NAME[:2]})
    with pytest.raises(DataError, match=r"val_00000002\.JPEG: its class n02119789 is not one of the 2 classes"):
        ImageNet(root, split="val")


@pytest.mark.parametrize("content", [b"", b"no matlab file at all", bytes(300)])
def test_a_broken_meta_mat_is_named(root, content):
    (root / DEVKIT / "meta.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"meta\.mat: can't be read as the devkit's meta\.mat"):
        ImageNet(root, split="val")


def test_images_sorted_into_folders_half_way_are_refused(root, make_folders):
    make_folders({"val/n02100735": ["ILSVRC2012_val_00000005.JPEG"]})
    with pytest.raises(DataError, match=r"4 loose ILSVRC2012_val_\* images beside 1 class folders"):
        ImageNet(root, split="val")
