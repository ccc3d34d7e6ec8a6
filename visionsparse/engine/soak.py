"""A training that is killed with -9 again and again: what the promise "nothing is lost" is measured by.

One small run is left alone. Another is killed at random moments, a good part of them while a checkpoint is being
written, and started again with `resume=True` until enough kills are spent; it must end at the very same bits. Each life
is a forked process, so that a kill costs no start of Python. Its writer is slowed down, so that there is something to
hit; apart from that it runs what a user runs.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from visionsparse.checkpoint import saving
from visionsparse.config import list_configs
from visionsparse.engine.checkpoint_hook import POINTER
from visionsparse.engine.resume import read_training_checkpoint
from visionsparse.engine.runner import train
from visionsparse.errors import CheckpointError
from visionsparse.files import TEMPORARY_SUFFIX, whole_file

# A life makes up to so many checkpoints, lives up to a second longer or until it is in the midst of the next one.
MOST_SAVES, LAST_SECONDS, SAVE_SECONDS = 3, 1.0, 0.1
SHARE_INSIDE = 0.5  # of the kills that wait for a save; some of these come too late
_PIECE, _PAUSE = 32 * 1024, 0.01  # the slowed writer: bytes, seconds


@dataclass
class Tally:
    """What a soak has seen."""

    kills: int = 0
    inside_a_save: int = 0
    runs: int = 0
    lost: int = 0
    torn: int = 0
    left_over: int = 0
    unequal_runs: int = 0
    broken_starts: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept, and enough kills fell inside a save for that to mean something."""
        faults = self.lost + self.torn + self.left_over + self.unequal_runs + self.broken_starts
        return faults == 0 and self.inside_a_save * 5 >= self.kills

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.inside_a_save} inside a save) in {self.runs} runs: {self.lost} checkpoints "
            f"lost, {self.torn} torn, {self.left_over} temporary files left after the next start, {self.broken_starts} "
            f"failed starts, final weights of {self.runs - self.unequal_runs} of {self.runs} runs bit-equal to the run "
            "never killed"
        )


def soak(kills: int, folder: Path, seed: int, say: Callable[[str], None] = print) -> Tally:
    """Spends `kills` kills on as many runs as they take, in `folder`, and compares each run's end.

    Args:
        kills: how many; the run they end in is then left to finish.
        folder: for the runs and the embedded digits; must be empty or absent.
        seed: of the moments of the kills.
        say: takes a line of progress.
    """
    moments = random.Random(seed)
    tally = Tally()
    straight = folder / "never-killed"
    life = _start(straight, slow=False)
    life.join()
    if life.exitcode:
        raise RuntimeError(f"the run that nobody kills ended with {life.exitcode}: see {straight}/soak.log")
    while tally.kills < kills:
        tally.runs += 1
        killed = folder / f"killed-{tally.runs}"
        _run_killing(killed, kills, moments, tally, say)
        is_equal = _end(killed) is not None and _same(_end(killed), _end(straight))
        tally.unequal_runs += not is_equal
        tally.left_over += len(_temporary(killed))
        say(f"run {tally.runs}: {tally.kills} kills so far, final weights {'bit-equal' if is_equal else 'DIFFER'}")
    return tally


def _run_killing(folder: Path, kills: int, moments: random.Random, tally: Tally, say: Callable[[str], None]) -> None:
    """One run to its end, killed as long as there are kills to spend."""
    newest = -1
    while True:
        left = _temporary(folder)
        life = _start(folder, slow=True)
        _wait(life, lambda left=left: not left & _temporary(folder))
        is_done = not _kill(life, folder, moments) if tally.kills < kills else not _wait(life, lambda: False)
        tally.left_over += len(left & _temporary(folder))
        if is_done:
            tally.broken_starts += life.exitcode != 0
            return
        tally.kills += 1
        tally.inside_a_save += bool(_temporary(folder))
        whole, torn = _checkpoints(folder)
        is_pointer_wrong = _pointer(folder) is not None and not (folder / str(_pointer(folder))).is_file()
        tally.torn += torn
        tally.lost += whole < newest or is_pointer_wrong
        newest = whole
        where = "inside a save" if _temporary(folder) else "between saves"
        say(f"kill {tally.kills}: {where}; newest whole checkpoint: iteration {max(whole, 0)}")


def _kill(life: Any, folder: Path, moments: random.Random) -> bool:
    """Kills a life at a random moment; False if it came to its end before."""
    saves, pointers = moments.randrange(MOST_SAVES + 1), {_pointer(folder)}

    def has_saved_enough() -> bool:
        pointers.add(_pointer(folder))
        return len(pointers) > saves

    if not _wait(life, has_saved_enough):
        return False
    seconds = moments.uniform(0, LAST_SECONDS)
    if moments.random() < SHARE_INSIDE:
        if not _wait(life, lambda: bool(_temporary(folder))):
            return False
        seconds = moments.uniform(0, SAVE_SECONDS)
    until = time.monotonic() + seconds
    if not _wait(life, lambda: time.monotonic() >= until):
        return False
    life.kill()
    life.join()
    return life.exitcode != 0


def _wait(life: Any, condition: Callable[[], bool]) -> bool:
    """Waits until `condition` holds; False if the life ends before."""
    while not condition():
        life.join(0.002)
        if life.exitcode is not None:
            return False
    return True


def _start(folder: Path, slow: bool) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    # Forked from a process that has not trained: autograd's threads don't survive a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "visionsparse.datasets", "visionsparse.evaluation", "visionsparse.tasks"])
    life = context.Process(target=_live, args=(folder, slow))
    life.start()
    return life


def _live(folder: Path, slow: bool) -> None:
    """One process of a training."""
    log = os.open(folder / "soak.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(log, "a", buffering=1)
    torch.set_num_threads(1)
    if slow:
        saving.whole_file = _slow_file
    digits = str(folder.parent / "digits")
    options = {f"{split}_dataloader.dataset.data_root": digits for split in ("train", "val")}
    train(_config(), work_dir=folder, resume=True, deterministic=True, device="cpu", options=options)


def _config() -> str:
    return next(name for name in list_configs() if name.endswith("_soak"))


@contextmanager
def _slow_file(path: str | Path) -> Iterator[Any]:
    with whole_file(path) as file:
        yield _Slow(file)


class _Slow:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.flush = file.flush

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        for begin in range(0, len(data), _PIECE):
            self.file.write(data[begin : begin + _PIECE])
            self.file.flush()
            if len(data) > _PIECE:
                time.sleep(_PAUSE)
        return len(data)


def _temporary(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(f".*{TEMPORARY_SUFFIX}")}


def _pointer(folder: Path) -> str | None:
    path = folder / POINTER
    return path.read_text() if path.is_file() else None


def _checkpoints(folder: Path) -> tuple[int, int]:
    """(iteration of the newest file that opens, number of files that don't)."""
    newest, torn = -1, 0
    for path in folder.glob("*.pth"):
        try:
            read_training_checkpoint(path)
        except CheckpointError:
            torn += 1
            continue
        match = re.fullmatch(r"iter_(\d+)\.pth", path.name)
        newest = max(newest, int(match[1]) if match else -1)
    return newest, torn


def _end(folder: Path) -> dict[str, Any] | None:
    newest, _ = _checkpoints(folder)
    return read_training_checkpoint(folder / f"iter_{newest}.pth") if newest >= 0 else None


def _same(one: Any, other: Any) -> bool:
    """Whether two checkpoints hold the same bits in model, averages, optimiser and schedules."""
    keys = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "pending_gradients")
    return one["meta"]["iter"] == other["meta"]["iter"] and all(_equal(one[key], other[key]) for key in keys)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other
