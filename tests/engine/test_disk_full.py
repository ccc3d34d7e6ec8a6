"""A disk that takes no more. RLIMIT_FSIZE stands in for it: a write beyond fails with EFBIG, as a full disk's does."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from mmengine.hooks import Hook

from tests.engine.test_resume import assert_same
from tests.engine.tiny import BATCHES
from visionsparse.checkpoint import read_checkpoint
from visionsparse.engine.runner import _write_json, train
from visionsparse.engine.scalars import LocalVisBackend
from visionsparse.errors import CheckpointError, ConfigError, InputError, UserError
from visionsparse.files import sweep
from visionsparse.registry import HOOKS
from visionsparse.visualization.figure import new_figure, save_figure


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture(autouse=True)
def _room_again():
    yield
    limit(resource.RLIM_INFINITY)


@contextmanager
def no_room():
    limit(1)
    try:
        yield
    finally:
        limit(resource.RLIM_INFINITY)


@HOOKS.register_module()
class FullDiskHook(Hook):
    """Fills the disk in the second epoch, while the checkpoint is written or before a line of the log is; once."""

    def __init__(self, when: str) -> None:
        self.when = when

    def fill(self, runner, size):
        done = Path(runner.work_dir) / "filled"
        if runner.epoch == 1 and not done.exists():
            done.touch()
            limit(size)

    def before_save_checkpoint(self, runner, checkpoint):
        if self.when == "checkpoint" and runner.iter > BATCHES:  # not the best of the first epoch's validation
            self.fill(runner, 4096)

    def before_train_epoch(self, runner):
        if self.when == "log":
            self.fill(runner, 1)


@pytest.mark.parametrize(
    ("when", "error", "message"),
    [
        ("checkpoint", CheckpointError, r"epoch_2\.pth: can't be saved: File too large\. \d+ MiB are free there"),
        ("log", UserError, r"\.log: can't be written: File too large\. \d+ MiB are free there.*--resume"),
    ],
)
def test_training_stops_in_one_line_and_goes_on_once_there_is_room(config, tmp_path, when, error, message):
    options = {"custom_hooks": [dict(type="FullDiskHook", when=when)]}
    work = tmp_path / "work"

    with pytest.raises(error, match=message) as caught:
        train(config, work_dir=work, options=options, deterministic=True)
    limit(resource.RLIM_INFINITY)

    assert "\n" not in str(caught.value)
    assert (work / "last_checkpoint").read_text() == "epoch_1.pth"
    assert read_checkpoint(work / "epoch_1.pth")["meta"]["epoch"] == 1
    assert sweep(work) == []
    train(config, work_dir=work, resume=True, options=options, deterministic=True)
    (tmp_path / "roomy").mkdir()
    (tmp_path / "roomy/filled").touch()
    train(config, work_dir=tmp_path / "roomy", options=options, deterministic=True)
    assert_same(read_checkpoint(work / "epoch_3.pth"), read_checkpoint(tmp_path / "roomy/epoch_3.pth"))


def test_a_number_of_the_curves_that_can_not_be_written_names_the_file(tmp_path):
    backend = LocalVisBackend(str(tmp_path))
    backend.add_scalars({"loss": 1.0}, step=1)

    with no_room(), pytest.raises(OSError, match=r"File too large: '.*scalars\.json'"):
        backend.add_scalars({"loss": 1.0}, step=2)


def test_a_picture_or_a_result_names_file_and_room_and_the_former_stays(tmp_path):
    figure, picture, result = new_figure(1, 1), tmp_path / "curves.png", tmp_path / "results.json"
    save_figure(figure, picture)
    _write_json({"top1": 50.0}, result)
    former = {path: path.read_bytes() for path in (picture, result)}

    with no_room():
        with pytest.raises(InputError, match=r"curves\.png: can't be written: .*\d+ MiB are free"):
            save_figure(figure, picture)
        with pytest.raises(ConfigError, match=r"results\.json: can't be written: .*\d+ MiB are free"):
            _write_json({"top1": 60.0}, result)

    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == former


@pytest.mark.slow
def test_a_full_disk_stops_the_command_with_exit_code_2_and_room_lets_it_go_on(tmp_path):
    """A tmpfs with room for one checkpoint, in a mount namespace; where that is not allowed, ulimit does instead."""
    command = (
        f"{sys.executable} -m visionsparse.tools.train biformer/biformer_nano_digits --work-dir full/work --resume "
        "--cfg-options 'model.backbone=dict(depths=(1,1),embed_dims=(32,64))' train_cfg.max_epochs=2 "
        "train_dataloader.batch_size=128 train_dataloader.num_workers=0 val_dataloader.num_workers=0 "
        "default_hooks.checkpoint.save_best=None"
    ).replace("dict(depths=(1,1),embed_dims=(32,64))", '{"depths": (1, 1), "embed_dims": (32, 64)}')
    may_mount = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    fill, empty = (
        ("mount -t tmpfs -o size=2500k tmpfs full", "mount -o remount,size=50m full")
        if may_mount
        else ("ulimit -S -f 1000", "ulimit -S -f unlimited")
    )
    script = f"mkdir full; {fill}; {command}; echo ended $?; ls -A full/work; {empty}; {command} && ls full/work"

    done = subprocess.run(
        [*(["unshare", "-m"] if may_mount else []), "sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )

    _, _, second = done.stdout.partition("ended 2\n")
    full = "epoch_2.pth" if may_mount else "epoch_1.pth"
    assert second, done.stdout + done.stderr
    assert done.stderr.startswith("visionsparse: ")
    assert f"{full}: can't be saved: " in done.stderr and "MiB are free there" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "visionsparse-tmp" not in second
    assert ("resuming from full/work/epoch_1.pth" in second) == may_mount
    assert done.returncode == 0 and "epoch_2.pth" in second
