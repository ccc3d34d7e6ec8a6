"""Averaged weights that move with the optimiser: mmengine's move once an iteration, so that accumulating gradients
over N iterations would forget N times as fast.
"""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook as _EMAHook

from visionsparse.registry import HOOKS


@HOOKS.register_module()
class EMAHook(_EMAHook):
    """mmengine's hook with its arguments (`momentum`, `update_buffers`, ...), updating after each optimiser step."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the averages if the iteration ended in a step."""
        if runner.optim_wrapper.should_update():
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
