"""`visionsparse benchmark training`: images a second of a training epoch by number of workers; a save, a resume.

The numbers of workers take turns, a run of three epochs each time: the first starts the workers and is not counted.
Validation and checkpoints are left out of the epochs. After the last one a whole checkpoint is written, and then
resumed from as `--resume` does it (found, read, loaded into model, optimiser, schedules and averages), ten times each.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook

from visionsparse.benchmark.measure import Record
from visionsparse.benchmark.timing import Timing
from visionsparse.engine.resume import find_checkpoint
from visionsparse.engine.runner import train
from visionsparse.registry import HOOKS

EPOCHS = 3
_SAVES = 10
_FILE = "benchmark.json"
# What would run between the epochs, or print.
_LEFT_OUT = {
    "val_cfg": None,
    "val_dataloader": None,
    "val_evaluator": None,
    "default_hooks.checkpoint": None,
    "log_level": "ERROR",
}


@HOOKS.register_module()
class BenchmarkHook(Hook):
    """Times every epoch, and after the last one saves and resumes; leaves the (wall, CPU) seconds as JSON."""

    def __init__(self) -> None:
        self.taken: dict[str, list[tuple[float, float]]] = {"epoch": [], "save": [], "resume": []}

    def before_train_epoch(self, runner: Any) -> None:
        self.begin = _now()

    def after_train_epoch(self, runner: Any) -> None:
        self.taken["epoch"].append(_since(self.begin))

    def after_train(self, runner: Any) -> None:
        folder, name = Path(runner.work_dir), f"epoch_{runner.epoch}.pth"
        for _ in range(_SAVES):
            self._time("save", lambda: runner.save_checkpoint(folder, name, by_epoch=False))
        for _ in range(_SAVES):
            self._time("resume", lambda: _resume(runner, folder))
        images, size = len(runner.train_dataloader.sampler), (folder / name).stat().st_size
        (folder / _FILE).write_text(json.dumps({"taken": self.taken, "images": images, "checkpoint_bytes": size}))

    def _time(self, what: str, call: Callable[[], object]) -> None:
        begin = _now()
        call()
        self.taken[what].append(_since(begin))


def _resume(runner: Any, folder: Path) -> None:
    """What `--resume` does: the file is read once."""
    found = find_checkpoint(folder)
    runner.resumable[str(found.path)] = found.checkpoint
    runner.resume(str(found.path))


def measure_training(
    config: str,
    device: torch.device,
    *,
    workers: Sequence[int] = (0, 1, 2),
    rounds: int = 3,
    options: Mapping[str, Any] | None = None,
    step: Callable[[str, float], None] = lambda name, share: None,
) -> list[Record]:
    """One record a number of workers (images/s), then one of saving and one of resuming.

    Args:
        config: path or name of a config.
        rounds: turns of every number of workers, two counted epochs each.
        options: changes to the config, by dotted key.
        step: told the run at hand and what share of it is done.

    Raises:
        ConfigError: as in `engine.runner.train`.
    """
    runs: dict[int, list[dict[str, Any]]] = {number: [] for number in workers}
    for turn in range(rounds):
        for number in runs:
            runs[number].append(_run(config, device, number, options))
            step(f"round {turn + 1}/{rounds}, {number} workers", 1)
    facts = {"config": config, "threads": torch.get_num_threads()}  # of the training process; a worker has one
    records = []
    for number, taken in runs.items():
        epochs = [epoch for run in taken for epoch in run["taken"]["epoch"][1:]]
        record = {"what": "training epoch", "workers": number, **facts, **_times(epochs)}
        records.append({**record, "images_per_s": 1e3 * taken[0]["images"] / record["median_ms"]})
    everything = [run for taken in runs.values() for run in taken]
    size = {"checkpoint_mib": everything[0]["checkpoint_bytes"] / 2**20}
    for what, name in (("save", "checkpoint save"), ("resume", "resume")):
        taken_ = [one for run in everything for one in run["taken"][what]]
        records.append({"what": name, **facts, **_times(taken_), **size})
    return records


def _run(config: str, device: torch.device, workers: int, options: Mapping[str, Any] | None) -> dict[str, Any]:
    changes = {
        **_LEFT_OUT,
        "train_cfg.max_epochs": EPOCHS,
        "train_dataloader.num_workers": workers,
        "default_hooks.benchmark": dict(type="BenchmarkHook"),
        **(options or {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        train(config, work_dir=folder, device=str(device), options=changes)
        return json.loads(Path(folder, _FILE).read_text())


def _times(taken: Sequence[tuple[float, float]]) -> dict[str, Any]:
    timing = Timing(*zip(*taken, strict=True))
    low, high = timing.quartiles
    return {
        "median_ms": 1e3 * timing.median,
        "quartiles_ms": [1e3 * low, 1e3 * high],
        "rounds": len(taken),
        "cpu_share": sum(timing.cpu_seconds) / sum(timing.seconds),
    }


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begin: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _now()
    return wall - begin[0], cpu - begin[1]
