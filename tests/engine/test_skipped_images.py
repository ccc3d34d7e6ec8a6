"""Corrupt images in a run: it stops at the first, or goes on without them, counts them and names them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import VAL_IMAGES, tiny_config, write_config, write_images
from visionsparse.checkpoint import read_checkpoint
from visionsparse.engine.runner import test as evaluate
from visionsparse.engine.runner import train
from visionsparse.errors import DataError

SKIP = {f"{split}_dataloader.dataset.corrupt": "skip" for split in ("train", "val", "test")}
ONE_EPOCH = {"train_cfg.max_epochs": 1}


@pytest.fixture
def corrupt_config(tmp_path: Path) -> Path:
    root = write_images(tmp_path / "images")
    (root / "train/class1/010.png").write_bytes(b"")
    (root / "val/class2/005.png").write_bytes(b"no image")
    (root / "val/class0/003.png").write_bytes(b"no image")
    return write_config(tmp_path / "tiny.py", tiny_config(root))


def log(folder: Path) -> str:
    (path,) = folder.glob("**/*.log")
    return path.read_text()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_stops_at_a_corrupt_image_and_names_it(corrupt_config: Path, tmp_path: Path, num_workers: int) -> None:
    options = {**ONE_EPOCH, "train_dataloader.num_workers": num_workers}
    with pytest.raises(DataError, match=r"^\S+train/class1/010\.png: not an image.*") as error:
        train(corrupt_config, work_dir=tmp_path / "run", options=options)
    assert "\n" not in str(error.value)


def test_a_run_that_skips_counts_and_names_what_it_skipped(corrupt_config: Path, tmp_path: Path) -> None:
    train(corrupt_config, work_dir=tmp_path / "run", options={**ONE_EPOCH, **SKIP})

    said = log(tmp_path / "run")
    assert "train: 1 image could not be read, place taken by the next: " in said
    assert "train/class1/010.png" in said
    assert "val: 2 images could not be read, not counted: " in said

    out = tmp_path / "result.json"
    evaluate(corrupt_config, tmp_path / "run/epoch_1.pth", out=out, options=SKIP)
    result = json.loads(out.read_text())
    assert (result["num_images"], result["num_skipped"]) == (VAL_IMAGES - 2, 2)
    assert [entry["num_images"] for entry in result["per_class"]] == [5, 6, 5]

    with pytest.raises(DataError, match=r"val/class0/003\.png: not an image"):
        evaluate(corrupt_config, tmp_path / "run/epoch_1.pth")


def test_a_run_that_skips_resumes_to_the_same_weights_with_other_workers(corrupt_config: Path, tmp_path: Path) -> None:
    options = {**ONE_EPOCH, **SKIP}
    every_third = {"default_hooks.checkpoint.by_epoch": False, "default_hooks.checkpoint.interval": 3}
    train(
        corrupt_config,
        work_dir=tmp_path / "run",
        options={**options, **every_third, "default_hooks.checkpoint.save_best": None},
    )
    whole = read_checkpoint(tmp_path / "run/iter_8.pth")["state_dict"]
    for name in ("iter_6.pth", "iter_8.pth", "last_checkpoint"):
        (tmp_path / "run" / name).unlink(missing_ok=True)

    train(
        corrupt_config,
        work_dir=tmp_path / "run",
        resume=True,
        options={**options, "train_dataloader.num_workers": 2},
    )
    resumed = read_checkpoint(tmp_path / "run/epoch_1.pth")["state_dict"]

    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
