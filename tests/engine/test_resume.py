"""A resumed run and one that never stopped end at the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint.hostile.build import training_file as mmengine_file
from tests.engine.tiny import BATCHES
from visionsparse.checkpoint import load_checkpoint, read_checkpoint
from visionsparse.engine import resume
from visionsparse.engine.resume import find_checkpoint
from visionsparse.engine.runner import train
from visionsparse.errors import CheckpointError, ConfigError
from visionsparse.files import TEMPORARY_SUFFIX

EACH_ITERATION = {"default_hooks.checkpoint.by_epoch": False}
LAST = 3 * BATCHES


HARD = {
    "model.backbone": dict(
        _delete_=True, type="biformer_nano", num_classes=3, depths=(1, 1), embed_dims=(32, 64), drop_path_rate=0.3
    ),
    "train_dataloader.dataset.pipeline": [
        dict(type="RandomResizedCrop", size=32, interpolation="bicubic"),
        dict(type="RandomHorizontalFlip"),
        dict(type="ColorJitter", brightness=0.4, hue=0.1),
    ],
}
RUNS = {
    "0 workers": (dict(num_workers=0), {}, None),
    "2 workers that stay": (dict(num_workers=2, persistent_workers=True), {}, None),
    "1 worker, bf16, drop path, augmentation": (dict(num_workers=1), HARD, "bf16"),
}


@pytest.fixture(scope="module", params=RUNS.values(), ids=RUNS)
def straight(request, config, tmp_path_factory):
    """(work_dir, how to train) of a run that saved every iteration and never stopped; with EMA and accumulation."""
    loader, options, amp = request.param
    options = {**EACH_ITERATION, **{f"train_dataloader.{key}": value for key, value in loader.items()}, **options}
    how = dict(options=options, amp=amp, deterministic=True)
    folder = tmp_path_factory.mktemp("straight")
    train(config, work_dir=folder, **how)
    return folder, how


def assert_same(one: dict, other: dict) -> None:
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        ours, theirs = dict(leaves(one[part], part)), dict(leaves(other[part], part))
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not same(ours[name], theirs[name])] == []


def leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{name}.{key}")
    else:
        yield name, node


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# An epoch's end, the middle of an epoch, and between two steps of an accumulating optimiser.
@pytest.mark.parametrize("iteration", [BATCHES, BATCHES + 4, BATCHES + 3])
def test_resuming_at_any_iteration_ends_at_the_same_bits(config, straight, iteration, tmp_path):
    folder, how = straight

    train(config, work_dir=tmp_path, resume=folder / f"iter_{iteration}.pth", **how)

    assert_same(read_checkpoint(tmp_path / f"iter_{LAST}.pth"), read_checkpoint(folder / f"iter_{LAST}.pth"))


def test_resuming_after_an_epoch_ends_at_the_same_bits(config, tmp_path):
    train(config, work_dir=tmp_path / "straight", deterministic=True)
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight/epoch_1.pth", tmp_path / "resumed")

    train(config, work_dir=tmp_path / "resumed", resume=True, deterministic=True)

    assert_same(read_checkpoint(tmp_path / "resumed/epoch_3.pth"), read_checkpoint(tmp_path / "straight/epoch_3.pth"))


def test_a_step_within_an_accumulation_keeps_its_gradients(straight):
    folder, _ = straight

    assert read_checkpoint(folder / "iter_11.pth")["pending_gradients"]
    assert not read_checkpoint(folder / "iter_12.pth")["pending_gradients"]


def training_file(path: Path) -> Path:
    torch.save({"meta": {"seed": 1, "epoch": 1, "iter": 8}, "state_dict": {}, "optimizer": {}, "message_hub": {}}, path)
    return path


def test_the_pointer_is_read_by_name_so_a_moved_folder_resumes(tmp_path):
    training_file(tmp_path / "epoch_1.pth")
    training_file(tmp_path / "epoch_2.pth")
    (tmp_path / "last_checkpoint").write_text("/gone/elsewhere/epoch_1.pth")

    assert find_checkpoint(tmp_path).path == tmp_path / "epoch_1.pth"


def test_a_torn_file_is_skipped_and_named(tmp_path):
    training_file(tmp_path / "epoch_1.pth")
    whole = training_file(tmp_path / "epoch_2.pth").read_bytes()
    (tmp_path / "epoch_2.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "last_checkpoint").write_text("epoch_2.pth")

    found = find_checkpoint(tmp_path)

    assert found.path == tmp_path / "epoch_1.pth"
    assert found.notes[0].startswith("skipped epoch_2.pth: ")
    assert found.notes[1] == f"resuming from {tmp_path / 'epoch_1.pth'}"


def test_nothing_to_resume_is_said(tmp_path):
    assert find_checkpoint(tmp_path).notes == [f"nothing to resume in {tmp_path}: starting from scratch"]


def test_a_given_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--resume gone\.pth: no such file"):
        find_checkpoint(tmp_path, "gone.pth")


def test_weights_alone_can_not_be_resumed_from(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "published.pth")

    with pytest.raises(CheckpointError, match=r"no 'meta' in it.*--load-from"):
        find_checkpoint(tmp_path, tmp_path / "published.pth")


def test_a_training_file_of_mmengine_gives_its_weights_only(tmp_path):
    torch.save(mmengine_file(), tmp_path / "epoch_3.pth")

    with pytest.raises(CheckpointError, match="was saved by mmengine alone.* --load-from"):
        find_checkpoint(tmp_path, tmp_path / "epoch_3.pth")
    model = torch.nn.Linear(3, 2)
    load_checkpoint(model, tmp_path / "epoch_3.pth")
    assert torch.equal(model.weight, mmengine_file()["state_dict"]["weight"])


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """The work_dir of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    train(config, work_dir=folder, deterministic=True)
    return folder


@pytest.mark.parametrize("num_workers", [3])
def test_the_number_of_workers_changes_no_bit(config, trained, tmp_path, num_workers):
    train(config, work_dir=tmp_path, options={"train_dataloader.num_workers": num_workers}, deterministic=True)

    assert_same(read_checkpoint(tmp_path / "epoch_3.pth"), read_checkpoint(trained / "epoch_3.pth"))


@pytest.mark.parametrize("key", ["state_dict", "optimizer", "message_hub", "meta.iter"])
def test_a_checkpoint_that_lacks_something_is_refused_with_the_way_to_use_it(tmp_path, key):
    checkpoint = read_checkpoint(training_file(tmp_path / "epoch_1.pth"))
    part, _, name = key.partition(".")
    del (checkpoint[part] if name else checkpoint)[name or part]
    torch.save(checkpoint, tmp_path / "epoch_1.pth")

    with pytest.raises(CheckpointError, match=f"no '{key}' in it, .*--load-from"):
        find_checkpoint(tmp_path, tmp_path / "epoch_1.pth")


def test_another_seed_than_the_checkpoints_is_refused(config, trained, tmp_path):
    with pytest.raises(ConfigError, match="--seed 4: .* was trained with seed 3"):
        train(config, work_dir=tmp_path, resume=trained / "epoch_1.pth", seed=4)


def test_a_moved_work_dir_goes_on_to_the_same_bits(config, trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    for name in ("epoch_2.pth", "epoch_3.pth"):
        (moved / name).unlink()
    (moved / "last_checkpoint").write_text("/gone/elsewhere/epoch_1.pth")

    train(config, work_dir=moved, resume=True, deterministic=True)

    assert_same(read_checkpoint(moved / "epoch_3.pth"), read_checkpoint(trained / "epoch_3.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim_wrapper.optimizer.lr": 0.1}, r"optim_wrapper\.optimizer\.lr: 0\.01 -> 0\.1\. .*--load-from"),
        ({"optim_wrapper.accumulative_counts": 4}, r"accumulative_counts: 2 -> 4"),
        ({"train_dataloader.batch_size": 12}, r"train_dataloader\.batch_size: 6 -> 12"),
        ({"train_dataloader.dataset.pipeline": []}, r"pipeline\[0\]\.type: RandomHorizontalFlip -> nothing"),
        ({"model.label_smoothing": 0.1}, r"model\.label_smoothing: nothing -> 0\.1"),
        ({"default_hooks.ema": None}, r"default_hooks\.ema\.type: EMAHook -> nothing"),
    ],
)
def test_a_config_that_trains_other_numbers_is_refused_with_its_keys(config, trained, tmp_path, options, message):
    with pytest.raises(ConfigError, match=rf"epoch_1\.pth: was trained with another config: .*{message}") as caught:
        train(config, work_dir=tmp_path, resume=trained / "epoch_1.pth", options=options)
    assert "\n" not in str(caught.value)


def test_mixed_precision_is_part_of_what_a_resumed_run_shares(config, trained, tmp_path):
    with pytest.raises(ConfigError, match="optim_wrapper.type: OptimWrapper -> AmpOptimWrapper"):
        train(config, work_dir=tmp_path, resume=trained / "epoch_1.pth", amp="bf16")


def test_what_decides_no_number_may_change(config, images, trained, tmp_path):
    elsewhere = shutil.copytree(images, tmp_path / "images")
    options = {
        "train_dataloader.num_workers": 1,
        "train_dataloader.dataset.data_root": str(elsewhere),
        "val_dataloader.batch_size": 9,
        "train_cfg.max_epochs": 4,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.logger": dict(type="LoggerHook", interval=1),
        "log_level": "WARNING",
    }

    train(config, work_dir=tmp_path / "work", resume=trained / "epoch_3.pth", options=options, deterministic=True)

    assert (tmp_path / "work/epoch_4.pth").is_file()


def test_data_of_another_size_is_refused(config, images, trained, tmp_path):
    grown = shutil.copytree(images, tmp_path / "images")
    shutil.copy(grown / "train/class0/000.png", grown / "train/class0/more.png")

    with pytest.raises(
        ConfigError, match=r"was trained on 48 samples, the data has 49\. Restore the data, or .*--load-from"
    ):
        train(
            config,
            work_dir=tmp_path / "work",
            resume=trained / "epoch_1.pth",
            options={"train_dataloader.dataset.data_root": str(grown)},
        )


def test_another_number_of_iterations_an_epoch_is_refused(config, trained, tmp_path):
    """As drop_last gives it where the samples left over are shared by another number of processes."""
    checkpoint = read_checkpoint(trained / "epoch_1.pth")
    checkpoint["meta"]["iterations_per_epoch"] = 9
    torch.save(checkpoint, tmp_path / "epoch_1.pth")

    with pytest.raises(ConfigError, match="had 9 iterations an epoch, here are 8: .*drop_last"):
        train(config, work_dir=tmp_path / "work", resume=tmp_path / "epoch_1.pth")


def test_a_checkpoint_is_read_once(config, trained, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(resume, "read_checkpoint", lambda path: read.append(path) or read_checkpoint(path))

    train(config, work_dir=tmp_path, resume=trained / "epoch_3.pth")

    assert read == [trained / "epoch_3.pth"]


def test_a_config_text_in_a_checkpoint_is_not_run(config, trained, tmp_path):
    """mmengine runs what stands under meta.config as Python."""
    checkpoint = read_checkpoint(trained / "epoch_3.pth")
    checkpoint["meta"]["config"] = f"open({str(tmp_path / 'executed')!r}, 'w')"
    torch.save(checkpoint, tmp_path / "strangers.pth")

    train(config, work_dir=tmp_path / "work", resume=tmp_path / "strangers.pth")

    assert not (tmp_path / "executed").exists()


def test_what_a_killed_writer_left_is_removed_at_the_start_and_said(config, trained, tmp_path, capsys):
    left = tmp_path / f".epoch_1.pth.0a1b2c3d{TEMPORARY_SUFFIX}"
    left.write_bytes(b"half of a checkpoint")

    train(config, work_dir=tmp_path, resume=trained / "epoch_3.pth")

    assert not left.exists()
    assert f"removed 1 unfinished files of a killed run: {left.name}" in capsys.readouterr().out
