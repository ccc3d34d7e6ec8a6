"""Training in several processes (gloo, CPU): the numbers of one process, and going on with another number of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.processes import together
from tests.engine.test_resume import assert_same
from tests.engine.tiny import TRAIN_IMAGES
from visionsparse.checkpoint import read_checkpoint
from visionsparse.engine.runner import train

pytestmark = pytest.mark.slow

GLOBAL_BATCH = 8
BATCHES = TRAIN_IMAGES // GLOBAL_BATCH
MIDDLE = BATCHES + 4  # of an epoch
BETWEEN_STEPS = BATCHES + 3  # of the accumulating optimiser: its gradients are kept as the mean over the processes
LAST = f"iter_{3 * BATCHES}.pth"


def options_for(world_size, **more):
    """Nothing in the net that depends on how a batch is cut in pieces; a checkpoint after each iteration."""
    return {
        "model.backbone": dict(type="TinyNet", drop_rate=0.0, frozen_norm=True),
        "train_dataloader.batch_size": GLOBAL_BATCH // world_size,
        "default_hooks.checkpoint.by_epoch": False,
        **more,
    }


@pytest.fixture(scope="module")
def two(config, tmp_path_factory):
    """The work_dir of a run of two processes that never stopped."""
    folder = tmp_path_factory.mktemp("two")
    ended = together(2, train, config, work_dir=folder, options=options_for(2), deterministic=True)
    assert ended == [(0, "")] * 2
    return folder


def assert_close(one: Path, other: Path) -> None:
    """Equal but for rounding: sums of a batch are taken in another order."""
    ours, theirs = read_checkpoint(one), read_checkpoint(other)
    for part in ("state_dict", "ema_state_dict"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=1e-4, atol=1e-5)


def assert_equal(one: Path, other: Path) -> None:
    assert_same(read_checkpoint(one), read_checkpoint(other))


def test_two_processes_equal_one_with_the_doubled_batch(config, two, tmp_path):
    train(config, work_dir=tmp_path, options=options_for(1), deterministic=True)

    assert_close(tmp_path / LAST, two / LAST)


def test_two_runs_of_two_processes_are_equal_bit_for_bit(config, two, tmp_path):
    together(2, train, config, work_dir=tmp_path, options=options_for(2), deterministic=True)

    assert_equal(tmp_path / LAST, two / LAST)


@pytest.mark.parametrize(("world_size", "iteration"), [(1, BETWEEN_STEPS), (2, MIDDLE), (4, BETWEEN_STEPS)])
def test_a_checkpoint_of_two_processes_goes_on_in_another_number_with_the_same_batches(
    config, two, tmp_path, world_size, iteration
):
    """The config says the batch of a process; the checkpoint, how many a global batch has."""
    ended = together(
        world_size,
        train,
        config,
        work_dir=tmp_path,
        resume=two / f"iter_{iteration}.pth",
        options=options_for(2),
        deterministic=True,
    )

    assert ended == [(0, "")] * world_size
    (assert_equal if world_size == 2 else assert_close)(tmp_path / LAST, two / LAST)


def test_processes_that_can_not_share_the_batch_equally_are_refused(config, two, tmp_path):
    ended = together(3, train, config, work_dir=tmp_path, resume=two / f"iter_{MIDDLE}.pth", options=options_for(2))

    assert all("was trained in batches of 8, which 3 processes can't share equally" in said for _, said in ended)


def test_a_signal_to_one_process_stops_all_after_the_same_iteration(config, two, tmp_path):
    hook = dict(type="SignalHook", numbers=[int(signal.SIGTERM)], iteration=MIDDLE, rank=1)
    rarely = {"default_hooks.checkpoint.interval": 1000, "default_hooks.checkpoint.save_best": None}
    options = options_for(2, custom_hooks=[hook], **rarely)

    ended = together(2, train, config, work_dir=tmp_path, options=options, deterministic=True)

    assert ended == [(143, "")] * 2
    assert [path.name for path in tmp_path.glob("*.pth")] == [f"iter_{MIDDLE}.pth"]
    together(2, train, config, work_dir=tmp_path, resume=True, options=options, deterministic=True)
    assert_equal(tmp_path / LAST, two / LAST)


def test_a_killed_process_is_started_again_by_torchrun_and_the_run_goes_on(tmp_path, images):
    """The command of docs/reliability.md: with --resume it starts, and starts again, by itself."""
    work = tmp_path / "work"
    words = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 -m visionsparse.tools.train"
    options = {
        "model.backbone": dict(depths=(1, 1), embed_dims=(32, 64), num_classes=3),
        "train_cfg.max_epochs": 1,
        "train_dataloader.batch_size": 3,
        "default_hooks.checkpoint": dict(by_epoch=False, interval=1, save_best=None, max_keep_ckpts=-1),
        **{f"{split}_dataloader.num_workers": 0 for split in ("train", "val")},
        **{f"{split}_dataloader.dataset.type": "ImageNet" for split in ("train", "val")},
        **{f"{split}_dataloader.dataset.data_root": str(images) for split in ("train", "val")},
    }
    name = "biformer/biformer_nano_digits"
    pairs = [f"{key}={value!r}" for key, value in options.items()]
    command = [sys.executable, *words.split(), name, "--work-dir", str(work), "--resume", "--deterministic"]
    killed = False
    with subprocess.Popen(
        [*command, "--cfg-options", *pairs], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        lines = []
        for line in launcher.stdout:
            lines.append(line)
            if not killed and "Saving checkpoint at 3 iterations" in line:
                children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
                os.kill(int(children[1]), signal.SIGKILL)
                killed = True
    output = "".join(lines)
    assert launcher.returncode == 0, output
    assert killed and "resuming from" in output

    straight = tmp_path / "straight"
    ended = together(2, train, name, work_dir=straight, options=options, deterministic=True)
    assert ended == [(0, "")] * 2
    assert_equal(work / "iter_8.pth", straight / "iter_8.pth")
