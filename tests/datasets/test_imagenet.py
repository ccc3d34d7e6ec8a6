from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from visionsparse.datasets import Digits, ImageNet
from visionsparse.datasets.imagenet import readable_names
from visionsparse.datasets.layouts import FileList
from visionsparse.errors import DataError

CLASSES = ["n01440764", "n01443537", "n01484850"]


@pytest.fixture
def root(make_folders):
    return make_folders(
        {
            "train/n01443537": ["b.JPEG", "a.png"],
            "train/n01440764": ["x.jpg", "y.WebP", "notes.txt.jpeg"],
            "train/n01484850": ["z.jpg"],
            "val/n01484850": ["ILSVRC2012_val_00000001.JPEG"],
            "val/n01440764": ["ILSVRC2012_val_00000002.JPEG"],
            "val/n01443537": ["ILSVRC2012_val_00000003.JPEG"],
        }
    )


def write_index(root, classes, names=None):
    names = names or [f"name of {name}" for name in classes]
    index = {str(label): list(pair) for label, pair in enumerate(zip(classes, names, strict=True))}
    (root / "imagenet_class_index.json").write_text(json.dumps(index))


def test_classes_are_the_sorted_train_folders_and_files_come_in_text_order(root):
    train = ImageNet(root)
    assert train.classes == CLASSES
    names = [os.path.relpath(train.files.path(index), root / "train") for index in range(len(train))]
    assert names == [
        "n01440764/notes.txt.jpeg",
        "n01440764/x.jpg",
        "n01440764/y.WebP",
        "n01443537/a.png",
        "n01443537/b.JPEG",
        "n01484850/z.jpg",
    ]
    assert train.files.labels.tolist() == [0, 0, 0, 1, 1, 2]


def test_images_and_labels_are_those_of_torchvisions_reader(digits_root):
    ours, theirs = Digits(digits_root, split="val"), ImageFolder(digits_root / "val", transform=pil_to_tensor)
    assert ours.classes == theirs.classes
    assert [(ours.files.path(index), int(ours.files.labels[index])) for index in range(len(ours))] == theirs.samples
    assert torch.equal(ours[100]["inputs"], theirs[100][0])


def test_a_sample_is_a_uint8_tensor_a_label_and_its_index(root):
    sample = ImageNet(root)[3]
    assert sample["inputs"].dtype == torch.uint8
    assert tuple(sample["inputs"].shape) == (3, 6, 8)
    assert (sample["label"], sample["index"]) == (1, 3)
    assert sample["inputs"].unique().tolist() == [2]


def test_other_files_hidden_files_and_hidden_folders_are_left_out(root):
    (root / "train/n01440764/readme.md").write_text("x")
    (root / "train/n01440764/._x.jpg").write_text("x")
    (root / "train/.ipynb_checkpoints").mkdir()
    assert len(ImageNet(root)) == 6


def test_iterating_ends_at_the_last_sample(root):
    assert len(list(ImageNet(root))) == 6
    with pytest.raises(IndexError):
        ImageNet(root)[-1]


def test_val_folders_get_the_labels_of_train(root):
    val = ImageNet(root, split="val")
    assert val.classes == CLASSES
    assert val.files.labels.tolist() == [0, 1, 2]


def test_a_class_index_file_sets_order_and_names(root):
    write_index(root, CLASSES[::-1], ["shark", "goldfish", "tench"])
    train = ImageNet(root)
    assert train.classes == CLASSES[::-1]
    assert train.class_names == ["shark", "goldfish", "tench"]
    assert train.metainfo == {"classes": CLASSES[::-1], "class_names": ["shark", "goldfish", "tench"]}
    assert train.files.labels.tolist() == [0, 1, 1, 2, 2, 2]


def test_a_data_set_without_train_takes_the_classes_of_its_own_split(make_folders):
    root = make_folders({"val/cat": ["a.jpg"], "val/dog": ["b.jpg"]})
    assert ImageNet(root, split="val").classes == ["cat", "dog"]


def test_wordnet_names_come_from_timm_and_only_when_asked_for(root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "timm.data", None)  # importing it would raise
        train = ImageNet(root)
    assert train.class_names[0] == "tench, Tinca tinca"
    assert readable_names(["n01440764", "n99999999"]) == ["tench, Tinca tinca", "n99999999"]
    assert readable_names(["cat", "dog"]) == ["cat", "dog"]


def test_a_missing_data_root_shows_the_expected_layout(tmp_path):
    with pytest.raises(DataError, match=r"absent: no such folder: expected .*absent/train/<class>/.*README") as error:
        ImageNet(tmp_path / "absent")
    assert "\n" not in str(error.value)


def test_a_missing_split_names_the_near_miss(root):
    with pytest.raises(DataError, match=r"no folder 'vall': expected .*Did you mean 'val'"):
        ImageNet(root, split="vall")


def test_an_empty_class_folder_is_refused_unless_allowed(root):
    for path in (root / "train/n01440764").iterdir():
        path.unlink()
    expected = (
        f"{root}/train/n01440764: no image (looked for .jpg .jpeg .png .webp). "
        "Remove the folder or set allow_empty=True."
    )
    with pytest.raises(DataError) as error:
        ImageNet(root)
    assert str(error.value) == expected
    train = ImageNet(root, allow_empty=True)
    assert train.classes == CLASSES
    assert train.files.labels.tolist() == [1, 1, 2]


def test_a_class_without_a_folder_is_refused_unless_allowed(root):
    write_index(root, [*CLASSES, "n01491361"])
    with pytest.raises(DataError, match="train/n01491361: no such class folder. Add the folder or set allow_empty"):
        ImageNet(root)
    assert len(ImageNet(root, allow_empty=True)) == 6


def test_a_folder_that_is_no_class_is_refused_with_the_near_miss(root):
    (root / "val/n01443537").rename(root / "val/n0144353")
    with pytest.raises(DataError, match=r"val/n0144353: not one of the 3 classes. .*Did you mean 'n01443537'"):
        ImageNet(root, split="val")


def test_no_class_folder_at_all_is_refused(make_folders):
    root = make_folders({"train": ["a.jpg", "b.jpg"]})
    with pytest.raises(DataError, match=r"train: no class folder: expected .*train/<class>/"):
        ImageNet(root)


def test_no_image_at_all_is_refused_even_where_empty_classes_are_allowed(make_folders):
    root = make_folders({"train/a": [], "train/b": []})
    with pytest.raises(DataError, match="no image in any class folder"):
        ImageNet(root, allow_empty=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read as a class index"),
        ("[]", "can't be read as a class index"),
        ('{"0": "n01440764"}', "can't be read as a class index"),
        ("{}", "empty"),
        ('{"0": ["a", "x"], "2": ["b", "y"]}', "label 2 is out of range: expected 0 to 1"),
        ('{"-1": ["a", "x"]}', "label -1 is out of range"),
        ('{"0": ["a", "x"], "1": ["a", "y"]}', "a class is named twice"),
    ],
)
def test_a_bad_class_index_file_is_named(root, text, message):
    (root / "imagenet_class_index.json").write_text(text)
    with pytest.raises(DataError, match=rf"imagenet_class_index\.json: .*{message}"):
        ImageNet(root)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xd8\xff\xe0"], ids=["broken link", "empty", "cut short"])
def test_an_image_that_cannot_be_read_is_named_when_it_is_read(root, content):
    path = root / "train/n01484850/z.jpg"
    path.unlink()
    if content is None:
        path.symlink_to(root / "nowhere.jpg")
    else:
        path.write_bytes(content)
    train = ImageNet(root)
    with pytest.raises(DataError, match=r"train/n01484850/z\.jpg: "):
        train[5]


def test_images_of_any_mode_become_three_channels(root):
    Image.fromarray(np.full((3, 4), 65535, np.uint16)).save(root / "train/n01484850/0.png")
    Image.new("L", (1, 1), 9).save(root / "train/n01484850/1.png")
    train = ImageNet(root)
    assert train[5]["inputs"].unique().tolist() == [255]
    assert tuple(train[6]["inputs"].shape) == (3, 1, 1)


def test_a_file_list_holds_three_arrays_and_gives_back_any_path(tmp_path):
    odd = os.fsdecode(b"caf\xc3\xa9 \xff.jpg")
    files = FileList.from_groups(tmp_path, [(["a/1.jpg", odd], 4), ([], 5), (["b.jpg"], [6])])
    assert [files.path(index) for index in range(3)] == [str(tmp_path / name) for name in ("a/1.jpg", odd, "b.jpg")]
    assert files.labels.tolist() == [4, 4, 6]
    assert [files.names.dtype, files.ends.dtype, files.labels.dtype] == [np.uint8, np.int64, np.int32]
