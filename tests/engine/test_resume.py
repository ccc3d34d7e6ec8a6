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
from visionsparse.engine.resume import find_checkpoint
from visionsparse.engine.runner import train
from visionsparse.errors import CheckpointError, ConfigError

EACH_ITERATION = {"default_hooks.checkpoint.by_epoch": False}
LAST = 3 * BATCHES


@pytest.fixture(scope="module", params=[0, 2], ids=["0 workers", "2 workers"])
def straight(request, config, tmp_path_factory):
    """(work_dir, options) of a run that saved every iteration and never stopped."""
    options = {**EACH_ITERATION, "train_dataloader.num_workers": request.param}
    folder = tmp_path_factory.mktemp("straight")
    train(config, work_dir=folder, options=options, deterministic=True)
    return folder, options


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
    folder, options = straight

    train(config, work_dir=tmp_path, resume=folder / f"iter_{iteration}.pth", options=options, deterministic=True)

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
    torch.save({"meta": {"seed": 1}, "state_dict": {}, "optimizer": {}, "message_hub": {}}, path)
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


def test_another_seed_than_the_checkpoints_is_refused(config, straight, tmp_path):
    with pytest.raises(ConfigError, match="--seed 4: .* was trained with seed 3"):
        train(config, work_dir=tmp_path, resume=straight[0] / "iter_12.pth", seed=4)


def test_averaging_must_be_on_in_both_file_and_config(config, straight, tmp_path):
    with pytest.raises(ConfigError, match="default_hooks.ema.type: EMAHook -> nothing"):
        train(
            config,
            work_dir=tmp_path,
            resume=straight[0] / "iter_12.pth",
            options={"default_hooks.ema": dict(_delete_=True, type="EmptyCacheHook")},
        )
