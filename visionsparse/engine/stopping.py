"""SIGTERM and SIGINT (Ctrl-C) end a training within one iteration and a save, and lose nothing.

The handler only notes the signal. After the iteration the hook saves `iter_N.pth`, lets the pointer name it, and leaves
with 143 or 130. A second signal, a second or more after the first, leaves at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import EMAHook, Hook

from visionsparse.engine.checkpoint_hook import LAST_KEY, POINTER, point_to
from visionsparse.registry import HOOKS

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# `timeout`, and a terminal under some launchers, send one and the same signal twice
SECONDS_TO_THE_SECOND = 1.0

_FILE_KEY = "stopped_at"  # in the message hub: the file that a signal has left


class StopRequest:
    """The signal that asks this process to stop; 0 as long as none has come."""

    def __init__(self) -> None:
        self.number = 0
        self._time = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if not self.number:
            self.number, self._time = number, time.monotonic()
        elif time.monotonic() - self._time > SECONDS_TO_THE_SECOND:
            for name in SIGNALS:
                signal.signal(name, signal.SIG_DFL)  # a third one kills
            leave(number)


def leave(number: int) -> None:
    """Ends this process as the signal asks: what runs in `finally` and `with` runs still.

    Raises:
        KeyboardInterrupt: for SIGINT, as Python does; a tool exits with 130.
        SystemExit: 143 for SIGTERM.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextmanager
def noting_signals() -> Iterator[StopRequest]:
    """Notes the signals inside the block, and gives back the former handlers after it.

    Python allows handlers in its main thread only; in another one nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def shield_worker(init: Any, worker_id: int) -> None:
    """`worker_init_fn` of a loader: signals to all processes of a job are the main process's to answer.

    A worker that died of them would take the iteration down that is to be finished.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # for the threads to come as well
    threading.Thread(target=_await_the_parents_sigterm, args=[os.getppid()], daemon=True).start()
    if init is not None:
        init(worker_id)


def _await_the_parents_sigterm(parent: int) -> None:
    """The main process ends its workers so. A handler could not tell who has sent the signal."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def shielded(init: Any) -> Any:
    """`shield_worker` before `init`, a loader's own worker_init_fn or None."""
    return partial(shield_worker, init)


@HOOKS.register_module()
class StopHook(Hook):
    """Saves and leaves where `runner.stop_request` has noted a signal."""

    priority = "LOWEST"  # behind CheckpointHook

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        number = _agreed(runner.stop_request.number, runner)
        if number:
            self._save(runner, number, runner.iter + 1)
            barrier()  # a launcher ends all processes when one is gone: not before the file is whole
            leave(number)

    def after_train_epoch(self, runner: Any) -> None:
        """Removes the file that an earlier stop has left, once the pointer names a newer one."""
        name = runner.message_hub.runtime_info.get(_FILE_KEY)
        if name is None or not is_main_process():
            return
        pointer = Path(runner.work_dir) / POINTER
        if pointer.is_file() and pointer.read_text().strip() != name:
            (Path(runner.work_dir) / Path(name).name).unlink(missing_ok=True)
            runner.message_hub.pop_info(_FILE_KEY)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # No agreement here: the processes may have unlike numbers of batches.
        number = runner.stop_request.number
        if not number:
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)  # takes the averaged weights out of the model again
        if not runner.distributed or runner.optim_wrapper.should_update():  # else saving takes all processes
            self._save(runner, number, runner.iter)
        leave(number)

    def _save(self, runner: Any, number: int, iteration: int) -> None:
        name = f"iter_{iteration}.pth"
        if runner.message_hub.runtime_info.get(LAST_KEY) != name:  # else CheckpointHook has just written it
            runner.message_hub.update_info(_FILE_KEY, name)
            meta = {"epoch": runner.epoch, "iter": iteration}
            runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
            if is_main_process():
                point_to(name, runner.work_dir)
        signal_name = signal.Signals(number).name
        runner.logger.info(f"{signal_name}: saved {Path(runner.work_dir) / name}; --resume goes on from it")


def _agreed(number: int, runner: Any) -> int:
    """The largest number of all processes: they must stop after the same iteration."""
    if not runner.distributed:
        return number
    shared = torch.tensor(number, device=runner.device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)
