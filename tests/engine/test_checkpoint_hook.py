from __future__ import annotations

import itertools

import pytest
import torch

import visionsparse.engine.base_runner as base_runner
from visionsparse.checkpoint import read_checkpoint, save_checkpoint
from visionsparse.engine.plain import to_plain
from visionsparse.engine.runner import train
from visionsparse.errors import ConfigError


def names(folder):
    return sorted(path.name for path in folder.glob("*.pth"))


@pytest.fixture
def trained(config, tmp_path, monkeypatch):
    """(work_dir, what was there before each save: files and pointer)."""
    seen = []

    def watch(checkpoint, path):
        pointer = tmp_path / "last_checkpoint"
        seen.append((path.name, names(tmp_path), pointer.read_text() if pointer.exists() else None))
        save_checkpoint(checkpoint, path)

    monkeypatch.setattr(base_runner, "save_checkpoint", watch)
    train(config, work_dir=tmp_path, options={"default_hooks.checkpoint.max_keep_ckpts": 1})
    return tmp_path, seen


def test_the_old_file_and_the_pointer_to_it_are_there_until_the_new_one_is_whole(trained):
    folder, seen = trained
    for name, files, pointer in seen:
        number = int(name.removesuffix(".pth").split("_")[-1])
        if name.startswith("epoch_") and number > 1 and name not in files:
            assert f"epoch_{number - 1}.pth" in files
            assert pointer == f"epoch_{number - 1}.pth"
    assert any(name == "epoch_3.pth" for name, _, _ in seen)
    assert [name for name in names(folder) if name.startswith("epoch")] == ["epoch_3.pth"]
    assert (folder / "last_checkpoint").read_text() == "epoch_3.pth"


def test_the_former_best_is_there_until_its_successor_is_whole(trained):
    folder, seen = trained
    best = [(name, files) for name, files, _ in seen if name.startswith("best")]
    for (former, _), (_, files) in itertools.pairwise(best):
        assert former in files
    assert [name for name in names(folder) if name.startswith("best")] == [best[-1][0]]


def test_a_checkpoint_is_plain_and_says_what_made_it(trained):
    folder, _ = trained
    path = folder / "epoch_3.pth"

    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    checkpoint = read_checkpoint(path)
    assert checkpoint["meta"]["epoch"] == 3
    assert checkpoint["meta"]["seed"] == 3
    assert checkpoint["meta"]["classes"] == checkpoint["meta"]["class_names"] == ["class0", "class1", "class2"]
    assert "TinyNet" in checkpoint["meta"]["cfg"]
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"backbone"}


def test_a_metric_that_validation_does_not_measure_is_refused_before_training(config, tmp_path):
    with pytest.raises(ConfigError, match=r"save_best: 'top_1' is not what validation measures\. Did you mean 'top1'"):
        train(config, work_dir=tmp_path, options={"default_hooks.checkpoint.save_best": "top_1"})
    assert names(tmp_path) == []


def test_what_is_not_plain_is_left_out():
    assert to_plain({"kept": [1, "a", None], "odd": object()}) == {"kept": [1, "a", None]}
