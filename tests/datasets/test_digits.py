from __future__ import annotations

import multiprocessing
import os
import shutil

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from visionsparse.config import CONFIGS, load_config
from visionsparse.datasets import Digits, digits
from visionsparse.errors import DataError


def test_the_images_are_scikit_learns_digits_in_order_with_the_last_360_as_val(digits_root):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    paths = sorted(digits_root.glob("*/*/*.png"), key=lambda path: int(path.stem))
    assert [path.parts[-3] for path in paths] == ["train"] * 1437 + ["val"] * 360
    assert [int(path.parts[-2]) for path in paths] == bunch.target.tolist()
    for row in (0, 1000, 1796):
        pixels = Image.fromarray(np.round(bunch.images[row] * 255 / 16).astype(np.uint8))
        expected = pixels.resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(Image.open(paths[row])), np.asarray(expected))


def test_the_data_set_reads_them_as_any_image_folder(digits_root):
    val = Digits(digits_root, split="val")
    sample = val[7]
    assert (len(Digits(digits_root)), len(val)) == (1437, 360)
    assert val.classes == val.class_names == [str(digit) for digit in range(10)]
    assert tuple(sample["inputs"].shape) == (3, 32, 32)
    assert val.files.path(7).split(os.sep)[-2] == str(sample["label"])


def test_writing_says_so_once_and_a_whole_set_is_left_as_it_is(tmp_path, capsys):
    root = tmp_path / "data" / "digits"
    digits.write_digits(root)
    assert capsys.readouterr().out == f"{root}: wrote the embedded digits (1437 train and 360 val images).\n"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    digits.write_digits(root)
    assert capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert os.listdir(root.parent) == ["digits"]


def test_an_empty_folder_is_filled(tmp_path):
    digits.write_digits(tmp_path)
    assert len(list(tmp_path.glob("val/*/*.png"))) == 360


def _killed_half_way(root):
    save, count = Image.Image.save, iter(range(700))

    def save_or_die(image, path):
        save(image, path)
        if next(count, None) is None:
            os._exit(9)

    Image.Image.save = save_or_die
    digits.write_digits(root)


def test_a_kill_half_way_leaves_no_half_set_and_the_next_start_writes_it(tmp_path):
    root = tmp_path / "digits"
    process = multiprocessing.get_context("fork").Process(target=_killed_half_way, args=(root,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not root.exists()
    digits.write_digits(root)
    assert len(Digits(root)) == 1437


def test_processes_that_start_together_write_one_set_and_say_so_once(tmp_path, capfd):
    root = tmp_path / "digits"
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=digits.write_digits, args=(root,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert capfd.readouterr().out.count("wrote the embedded digits") == 1
    assert os.listdir(tmp_path) == ["digits"]
    assert len(Digits(root, split="val")) == 360


def test_losing_the_race_for_the_folder_keeps_the_winners_set(tmp_path, digits_root, monkeypatch, capsys):
    root = tmp_path / "digits"
    monkeypatch.setattr(
        digits, "_write_images", lambda unfinished: (unfinished.mkdir(), shutil.copytree(digits_root, root))
    )
    digits.write_digits(root)
    assert capsys.readouterr().out == ""
    assert os.listdir(tmp_path) == ["digits"]


def test_a_pruned_set_is_refused(tmp_path, digits_root):
    root = tmp_path / "digits"
    shutil.copytree(digits_root / "train", root / "train")
    with pytest.raises(DataError, match=r"digits: not the embedded digits \(1437 of 1797 images found\). Remove"):
        Digits(root)


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match=r"not the embedded digits \(0 of 1797"):
        Digits(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/digits: can't write the embedded digits: .*Set data_root"):
        Digits(tmp_path / "file" / "digits")


def test_missing_scikit_learn_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        Digits(tmp_path / "digits")
    assert os.listdir(tmp_path) == []


def test_the_base_config_loads_batches_with_its_two_workers(digits_root):
    config = load_config(CONFIGS / "_base_" / "digits.py")
    config.train_dataloader.dataset.data_root = str(digits_root)
    with DefaultScope.overwrite_default_scope("visionsparse"):
        loader = Runner.build_dataloader(config.train_dataloader, seed=3)
    batches = list(loader)
    assert (loader.num_workers, loader.sampler.seed, len(loader)) == (2, 3, 23)
    assert tuple(batches[0]["inputs"].shape) == (64, 3, 32, 32)
    assert sorted(index for batch in batches for index in batch["index"].tolist()) == list(range(1437))
