"""Where a run stands, how well, how fast, and how long it will take: a line a logging interval, a bar in a terminal."""

from __future__ import annotations

import datetime
import logging
import sys
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import LOG_PROCESSORS
from mmengine.runner import LogProcessor

from visionsparse.progress import ProgressBar
from visionsparse.registry import HOOKS


@LOG_PROCESSORS.register_module()
class ProgressLogProcessor(LogProcessor):
    """mmengine's numbers (they go to scalars.json as ever) in a line for people."""

    def get_log_after_iter(self, runner: Any, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        tag, _ = super().get_log_after_iter(runner, batch_idx, mode)
        loader = getattr(runner, f"{mode}_dataloader")
        words = [f"{mode:5}"]
        if mode == "train":
            words.append(f"epoch {runner.epoch + 1:>{len(str(runner.max_epochs))}}/{runner.max_epochs}")
        words.append(f"iter {batch_idx + 1:>{len(str(len(loader)))}}/{len(loader)}")
        words += [f"{name} {value:.4f}" for name, value in tag.items() if mode == "train" and "loss" in name]
        if "lr" in tag:
            words.append(f"lr {tag['lr']:.2e}")
        if tag.get("time"):
            words.append(f"{_images_a_step(loader) / tag['time']:.0f} images/s")
        if "memory" in tag:
            words.append(f"{tag['memory']} MiB")
        if "eta" in runner.message_hub.runtime_info:
            words.append(f"eta {datetime.timedelta(seconds=int(runner.message_hub.get_info('eta')))}")
        return tag, "  ".join(words)

    def get_log_after_epoch(
        self, runner: Any, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        tag, _ = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        words = [f"{mode:5}"]
        if mode == "val":
            words.append(f"epoch {runner.epoch:>{len(str(runner.max_epochs))}}/{runner.max_epochs}")
        words += [
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in tag.items()
            if name not in ("time", "data_time")
        ]
        return tag, "  ".join(words)


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """A bar over the whole training or test, where process 0 has a terminal. `close` must follow, whatever happens."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None
        self._streams: list[tuple[logging.StreamHandler, Any]] = []

    def before_train(self, runner: Any) -> None:
        step = _images_a_step(runner.train_dataloader)
        self._open(runner, runner.max_iters * step, runner.iter * step)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done = runner.iter + 1
        self._update(done * _images_a_step(runner.train_dataloader), f"train {done}/{runner.max_iters}")

    def before_test(self, runner: Any) -> None:
        self._open(runner, len(runner.test_dataloader) * _images_a_step(runner.test_dataloader))

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done, loader = batch_idx + 1, runner.test_dataloader
        self._update(done * _images_a_step(loader), f"test {done}/{len(loader)}")

    def close(self) -> None:
        """Removes the bar; lines go where they went before."""
        if self._bar is None:
            return
        self._bar.close()
        self._bar = None
        for handler, stream in self._streams:
            handler.setStream(stream)

    def _open(self, runner: Any, total: int, done: int = 0) -> None:
        self._bar = ProgressBar(total, "images", done, is_shown=get_rank() == 0)
        self._bar.__enter__()
        # the logger has the terminal itself, and would write over the bar
        handlers = [handler for handler in runner.logger.handlers if type(handler) is logging.StreamHandler]
        self._streams = [(handler, handler.stream) for handler in handlers if handler.stream is sys.__stdout__]
        for handler, _ in self._streams:
            handler.setStream(sys.stdout)

    def _update(self, done: int, description: str) -> None:
        if self._bar is not None:
            self._bar.update(done, description)


def _images_a_step(loader: Any) -> int:
    """Over all processes; a loader with a batch sampler has no batch size of its own."""
    return (loader.batch_size or getattr(loader.batch_sampler, "batch_size", 1)) * get_world_size()
