"""SIGTERM and SIGINT in the middle of a training: what is saved, how it ends, and that going on gives the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from tests.engine.test_resume import assert_same
from tests.engine.tiny import BATCHES
from visionsparse.checkpoint import read_checkpoint
from visionsparse.engine import stopping
from visionsparse.engine.runner import train
from visionsparse.registry import HOOKS

LAST = "epoch_3.pth"


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends this process signals at the given iteration of training, or of the first validation; once a work_dir."""

    def __init__(
        self, numbers: list[int], iteration: int | None = None, val_iteration: int | None = None, rank: int = 0
    ) -> None:
        self.numbers, self.rank = numbers, rank
        self.iteration, self.val_iteration = iteration, val_iteration

    def send(self, runner) -> None:
        done = Path(runner.work_dir) / "sent"
        if self.rank == get_rank() and not done.exists():
            done.touch()
            for number in self.numbers:
                os.kill(os.getpid(), number)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            self.send(runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == self.val_iteration and runner.epoch == 1:
            self.send(runner)


def options_for(*numbers, workers=0, **when):
    return {
        "custom_hooks": [dict(type="SignalHook", numbers=list(numbers), **when)],
        "train_dataloader.num_workers": workers,
    }


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    train(config, work_dir=folder, options=options_for(), deterministic=True)
    return folder


def stopped(config, folder, options):
    """How the training of `config` ended."""
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        train(config, work_dir=folder, options=options, deterministic=True)
    return caught


@pytest.mark.parametrize(
    ("number", "workers", "iteration"),
    # the middle of an epoch, between two steps of the accumulating optimiser, the last iteration of an epoch
    [
        (signal.SIGTERM, 0, BATCHES + 2),
        (signal.SIGINT, 0, BATCHES + 3),
        (signal.SIGTERM, 2, BATCHES + 2),
        (signal.SIGINT, 0, BATCHES),
    ],
)
def test_a_signal_saves_after_its_iteration_and_going_on_ends_at_the_same_bits(
    config, straight, tmp_path, number, workers, iteration
):
    options = options_for(number, workers=workers, iteration=iteration)

    caught = stopped(config, tmp_path, options)

    assert caught.type is (KeyboardInterrupt if number == signal.SIGINT else SystemExit)
    assert number == signal.SIGINT or caught.value.code == 143
    assert (tmp_path / "last_checkpoint").read_text() == f"iter_{iteration}.pth"
    train(config, work_dir=tmp_path, resume=True, options=options, deterministic=True)
    assert_same(read_checkpoint(tmp_path / LAST), read_checkpoint(straight / LAST))


def test_the_file_of_a_stop_goes_once_a_newer_one_is_there(config, tmp_path):
    options = options_for(signal.SIGTERM, iteration=BATCHES + 3)
    stopped(config, tmp_path, options)
    assert (tmp_path / f"iter_{BATCHES + 3}.pth").is_file()

    train(config, work_dir=tmp_path, resume=True, options=options, deterministic=True)

    assert not list(tmp_path.glob("iter_*.pth"))
    assert (tmp_path / "epoch_2.pth").is_file()


def test_a_regular_checkpoint_of_the_iteration_of_a_stop_stays(config, tmp_path):
    options = {**options_for(signal.SIGTERM, iteration=4), "default_hooks.checkpoint.by_epoch": False}
    stopped(config, tmp_path, options)
    assert (tmp_path / "last_checkpoint").read_text() == "iter_4.pth"

    train(config, work_dir=tmp_path, resume=True, options=options, deterministic=True)

    assert (tmp_path / "iter_4.pth").is_file()


def test_a_signal_during_validation_saves_the_epochs_end_and_going_on_validates_it(config, straight, tmp_path):
    options = options_for(signal.SIGTERM, val_iteration=0)

    assert stopped(config, tmp_path, options).value.code == 143

    # its averages aren't swapped with its weights, as validation does
    assert_same(read_checkpoint(tmp_path / f"iter_{BATCHES}.pth"), read_checkpoint(tmp_path / "epoch_1.pth"))
    train(config, work_dir=tmp_path, resume=True, options=options, deterministic=True)
    ours, theirs = (read_checkpoint(folder / LAST) for folder in (tmp_path, straight))
    assert_same(ours, theirs)
    for name in ("val/top1", "val/num_images"):
        values = [list(checkpoint["message_hub"]["log_scalars"][name]["values"]) for checkpoint in (ours, theirs)]
        assert values[0] == values[1]


def test_a_second_signal_leaves_at_once(config, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "SECONDS_TO_THE_SECOND", -1)

    assert stopped(config, tmp_path, options_for(15, 15, iteration=2)).value.code == 143

    assert not list(tmp_path.glob("*.pth"))


def test_one_signal_that_comes_twice_is_one(config, tmp_path):
    stopped(config, tmp_path, options_for(15, 15, iteration=2))

    assert (tmp_path / "iter_2.pth").is_file()


def test_the_former_handlers_are_back_afterwards(config, tmp_path):
    before = [signal.getsignal(number) for number in stopping.SIGNALS]

    stopped(config, tmp_path, options_for(signal.SIGINT, iteration=1))

    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_outside_the_main_thread_signals_are_left_alone():
    def work():
        with stopping.noting_signals() as request:
            seen.append((request.number, signal.getsignal(signal.SIGTERM)))

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, signal.getsignal(signal.SIGTERM))]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_process_group_leaves_no_worker_and_no_warning(tmp_path, number, code):
    """As a terminal's Ctrl-C does: the two data-loading processes get the signal as well."""
    words = f"biformer/biformer_nano_digits --work-dir {tmp_path}/work --cfg-options default_hooks.logger.interval=1"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "visionsparse.tools.train", *words.split()],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if "iter  3/" in line:
                os.killpg(process.pid, number)
                break
        output, errors = process.communicate()
    assert process.returncode == code, errors
    assert errors in ("", "visionsparse: interrupted\n")
    assert "--resume goes on from it" in output
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left in the group
