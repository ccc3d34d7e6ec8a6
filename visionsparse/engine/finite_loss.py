"""Stops a run whose loss is no longer a number: mmengine would train on to the end with weights of NaN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch import Tensor

from visionsparse.errors import UserError
from visionsparse.files import write_text
from visionsparse.registry import HOOKS

_FILES_SHOWN = 2


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops before the checkpoint of that iteration is written, so the last one on disk is sound.

    Raises:
        UserError: names the iteration, the loss term and the batch's files; all of them are in
            `<work_dir>/not_finite_iter_N.txt`, one a line (with `_rankR` from the other processes).
    """

    # Before the other hooks; RuntimeInfoHook fetches these numbers from the device anyway.
    priority = "VERY_HIGH"

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        for name, value in (outputs or {}).items():
            if "loss" not in name:
                continue
            number = float(value.detach() if isinstance(value, Tensor) else value)
            if not math.isfinite(number):
                raise UserError(
                    f"iteration {runner.iter + 1} (epoch {runner.epoch + 1}): {name} is {number}, expected a finite "
                    f"number{_batch(runner, data_batch)}. Look at these samples; or start anew from the last "
                    "checkpoint's weights (--load-from) with a lower learning rate, with optim_wrapper.clip_grad, or "
                    "with --amp bf16 in place of fp16."
                )


def _batch(runner: Any, data_batch: Any) -> str:
    """`, on train/a/1.png and 63 more (all in ...)`, or nothing where the data set does not know its files."""
    files = getattr(runner.train_dataloader.dataset, "files", None)
    indices = data_batch.get("index") if isinstance(data_batch, dict) else None
    if files is None or indices is None:
        return ""
    paths = [files.path(int(index)) for index in indices]
    rank = f"_rank{get_rank()}" if get_rank() else ""
    place = Path(runner.work_dir) / f"not_finite_iter_{runner.iter + 1}{rank}.txt"
    write_text(place, "\n".join(paths) + "\n")
    more = f" and {len(paths) - _FILES_SHOWN} more" if len(paths) > _FILES_SHOWN else ""
    return f", on {', '.join(paths[:_FILES_SHOWN])}{more} (all in {place})"
