"""Stops a run whose loss is no longer a number: mmengine would train on to the end with weights of NaN."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import Hook
from torch import Tensor

from visionsparse.errors import UserError
from visionsparse.registry import HOOKS


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops before the checkpoint of that iteration is written, so the last one on disk is sound.

    Raises:
        UserError: names the iteration and the loss term.
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
                    f"iteration {runner.iter + 1} (epoch {runner.epoch + 1}): {name} is {number}, expected a "
                    "finite number. Lower the learning rate, clip gradients (optim_wrapper.clip_grad) or use "
                    "--amp bf16 in place of fp16, then go on with --resume."
                )
