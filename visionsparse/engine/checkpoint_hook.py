"""Saves, then points, then prunes: a run that is killed at any moment keeps its last whole checkpoint.

mmengine deletes the old file before it writes the new one, and its pointer is a path, wrong once the folder has moved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as _CheckpointHook

from visionsparse.errors import ConfigError, did_you_mean
from visionsparse.files import write_text
from visionsparse.registry import HOOKS

POINTER = "last_checkpoint"
# in the message hub: the epoch whose validation is done, the file that was written last
VALIDATED_KEY = "validated_epoch"
LAST_KEY = "last_ckpt"


@HOOKS.register_module()
class CheckpointHook(_CheckpointHook):
    """mmengine's hook with its arguments (`interval`, `max_keep_ckpts`, `save_best`, ...), safe against kill -9."""

    def __init__(self, *args: Any, save_best: str | None = None, **kwargs: Any) -> None:
        if save_best is not None and not isinstance(save_best, str):
            raise ConfigError(
                f"default_hooks.checkpoint.save_best is {save_best!r}, expected one metric, such as 'top1'."
            )
        if save_best is not None:
            kwargs.setdefault("rule", "less" if "loss" in save_best or save_best == "ece" else "greater")
        super().__init__(*args, save_best=save_best, **kwargs)
        self.best_ckpt_path: str | None = None

    def before_train(self, runner: Any) -> None:
        """Checks the name of the metric before hours are spent, and finds the best file of a folder that has moved."""
        super().before_train(runner)
        if not self.save_best:
            return
        evaluator = runner.val_evaluator if runner.val_loop is not None else None
        metrics = [] if evaluator is None else evaluator.metrics
        known = [name for metric in metrics for name in getattr(metric, "names", ())]
        names_are_known = metrics and all(hasattr(metric, "names") for metric in metrics)
        if self.save_best != ["auto"] and (not metrics or names_are_known) and self.save_best[0] not in known:
            hint = did_you_mean(self.save_best[0], known) if metrics else " There is no validation: set val_evaluator."
            raise ConfigError(
                f"default_hooks.checkpoint.save_best: {self.save_best[0]!r} is not what validation measures.{hint}"
            )
        if self.best_ckpt_path is not None:
            self.best_ckpt_path = str(Path(self.out_dir) / Path(self.best_ckpt_path).name)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        """Saves the best so far; a file written from here on knows that this epoch is validated."""
        runner.message_hub.update_info(VALIDATED_KEY, runner.epoch)
        super().after_val_epoch(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = str(Path(self.out_dir) / name)
        runner.message_hub.update_info(LAST_KEY, name)
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            steps = [*(kept for kept in self.keep_ckpt_ids if kept != step), step]
            outdated = steps[: -self.max_keep_ckpts]
            self.keep_ckpt_ids.extend(steps)  # a deque: keeps the last max_keep_ckpts
            # The outdated ones are named in the file too: a run killed before it prunes does so when it is resumed.
            runner.message_hub.update_info("keep_ckpt_ids", steps)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
        )
        if not is_main_process():
            return
        point_to(name, runner.work_dir)
        for old in outdated:
            (Path(self.out_dir) / self.filename_tmpl.format(old)).unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        former = self.best_ckpt_path
        self.best_ckpt_path = None  # else the base class deletes it before its successor is written
        super()._save_best_checkpoint(runner, metrics)
        if self.best_ckpt_path is None:
            self.best_ckpt_path = former
        elif former is not None and former != self.best_ckpt_path and is_main_process():
            Path(former).unlink(missing_ok=True)


def point_to(name: str, work_dir: str) -> None:
    """Makes `last_checkpoint` in `work_dir` name the file `name`, at once or not at all."""
    write_text(Path(work_dir) / POINTER, name)
