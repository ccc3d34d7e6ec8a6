"""What a user can get wrong, through the tools as a user calls them: one line on stderr, exit code 2, nothing lost."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import visionsparse as vs
from visionsparse import cli

CONFIG = "biformer/biformer_nano_digits"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the digits, and a checkpoint of the nano config's net in our own layout."""
    from visionsparse.datasets.digits import write_digits

    folder = tmp_path_factory.mktemp("workplace")
    write_digits(folder / "data/digits")
    net = vs.create_model("biformer_nano", num_classes=10)
    vs.checkpoint.save_checkpoint({"state_dict": net.state_dict()}, folder / "nano.pth")
    return folder


@pytest.fixture(autouse=True)
def inside(workplace, monkeypatch):
    monkeypatch.chdir(workplace)


def refusal(capsys, *words):
    """The one line that a call is refused with."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    error = capsys.readouterr().err
    assert caught.value.code == 2, error
    assert error.startswith("visionsparse")
    assert error.count("\n") == 1
    return error


def infer(*words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["infer", CONFIG, *map(str, words), "--checkpoint", "nano.pth", "--json", "out.json"])
    return caught.value.code


def photo(path, mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "size", "suffix"),
    [
        ("L", (40, 30), "png"),
        ("P", (40, 30), "png"),
        ("CMYK", (40, 30), "jpg"),
        ("I;16", (40, 30), "png"),
        ("RGB", (1, 1), "png"),
    ],
)
def test_grey_palette_cmyk_16_bit_and_one_pixel_images_are_taken(tmp_path, mode, size, suffix):
    assert infer(photo(tmp_path / f"photo.{suffix}", mode, size)) == 0


def test_a_missing_image_is_named(capsys, tmp_path):
    words = ["infer", CONFIG, f"{tmp_path}/cat.jpg", "--checkpoint", "nano.pth"]
    assert f"{tmp_path}/cat.jpg" in refusal(capsys, *words)


@pytest.mark.parametrize("kind", ["corrupt", "truncated"])
def test_a_broken_image_is_named(capsys, tmp_path, kind):
    path = photo(tmp_path / "cat.jpg")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if kind == "truncated" else b"\xff\xd8 this is no picture" * 20)
    assert f"{path}: " in refusal(capsys, "infer", CONFIG, str(path), "--checkpoint", "nano.pth")


def train(capsys, *options):
    short = ["train_cfg.max_epochs=1", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
    return refusal(capsys, "train", CONFIG, "--work-dir", "work", "--cfg-options", *short, *options)


def own_images(folder, classes=("cat", "dog")):
    for split in ("train", "val"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            photo(folder / split / name / "1.png", size=(32, 32))
    loaders = ("train_dataloader", "val_dataloader")
    data = [f"{loader}.dataset.{key}" for loader in loaders for key in ("type=ImageNet", f"data_root={folder}")]
    return [*data, f"model.backbone.num_classes={len(classes)}"]


def test_an_empty_class_folder_is_named(capsys, tmp_path):
    options = own_images(tmp_path)
    os.remove(tmp_path / "train/dog/1.png")
    assert f"{tmp_path}/train/dog: no image (looked for .jpg" in train(capsys, *options)


def test_a_misspelt_class_folder_gets_its_near_miss(capsys, tmp_path):
    options = own_images(tmp_path, ("tench", "goldfish"))
    os.rename(tmp_path / "val/goldfish", tmp_path / "val/goldfisch")
    error = train(capsys, *options)
    assert f"{tmp_path}/val/goldfisch" in error
    assert "Did you mean 'goldfish'?" in error


def test_data_of_another_number_of_classes_is_refused_before_training(capsys, tmp_path):
    options = [option for option in own_images(tmp_path) if "num_classes" not in option]
    assert "the data has 2 classes, but the model 10" in train(capsys, *options)


def test_an_out_of_range_label_is_named(capsys, tmp_path):
    options = own_images(tmp_path)
    (tmp_path / "imagenet_class_index.json").write_text('{"0": ["cat", "cat"], "7": ["dog", "dog"]}')
    assert "label 7 is out of range: expected 0 to 1" in train(capsys, *options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("optim_wraper.optimizer.lr=1", "'optim_wraper' is not a config key. Did you mean 'optim_wrapper'"),
        ("optim_wrapper.optimizer.lrr=1", "optim_wrapper.optimizer.lrr: AdamW has no argument of that name."),
        ("model.backbone.type=biformer_nanno", "'biformer_nanno' is not known. Did you mean 'biformer_nano'?"),
        ("model.backbone.drop_path=0.1", "model.backbone.drop_path: biformer_nano has no argument of that name."),
        ("model.backbone.topks=(17,-2)", "topk=17, but there are 4 x 4 = 16 regions to choose from"),
    ],
)
def test_a_wrong_key_name_or_value_is_refused(capsys, option, message):
    assert message in train(capsys, option)


class _Code:
    def __reduce__(self):
        return os.system, ("touch executed",)


def write_checkpoint(kind, path):
    if kind == "of another model":
        torch.save({"model": vs.create_model("biformer_nano", num_classes=10, depths=(1, 1)).state_dict()}, path)
    elif kind == "truncated":
        content = Path("nano.pth").read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "with code in it":
        path.write_bytes(pickle.dumps({"model": _Code()}))


@pytest.mark.parametrize("kind", ["of another model", "truncated", "with code in it", "missing"])
@pytest.mark.parametrize("tool", ["test", "infer", "train"])
def test_a_checkpoint_that_can_not_be_used_is_named_and_nothing_in_it_runs(capsys, tmp_path, tool, kind):
    path = tmp_path / "weights.pth"
    write_checkpoint(kind, path)
    words = {
        "test": ["test", CONFIG, str(path)],
        "infer": ["infer", CONFIG, "data/digits/val/3/1460.png", "--checkpoint", str(path)],
        "train": ["train", CONFIG, "--work-dir", str(tmp_path / "work"), "--load-from", str(path)],
    }
    assert str(path) in refusal(capsys, *words[tool])
    assert not os.path.exists("executed")
