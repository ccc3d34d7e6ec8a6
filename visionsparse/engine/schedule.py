"""The learning rate of the DeiT recipe (timm's cosine schedule): a linear warm-up, then a cosine over all epochs.

    rate(t) = warmup_lr + (lr - warmup_lr) * t / warmup_epochs                        t < warmup_epochs
              eta_min + (lr - eta_min) / 2 * (1 + cos(pi * t / max_epochs))           otherwise

The cosine does not wait for the warm-up: it starts below its top. Source: arXiv 2012.12877; timm's `CosineLRScheduler`.
"""

from __future__ import annotations

import math
from typing import Any

from mmengine.optim import _ParamScheduler

from visionsparse.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """Sets the learning rate of each epoch; the optimiser's `lr` is the height of the cosine.

    Args:
        optimizer: the optimiser or its wrapper.
        warmup_epochs, warmup_lr: length of the warm-up and its first learning rate.
        eta_min: where the cosine ends.
        end: epochs of the whole schedule; those of the run, where the config does not say.
    """

    def __init__(
        self, optimizer: Any, *, warmup_epochs: int = 5, warmup_lr: float = 1e-6, eta_min: float = 1e-5, end: int
    ) -> None:
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        self.eta_min = eta_min
        super().__init__(optimizer, "lr", end=end)

    def _get_value(self) -> list[float]:
        # published: the schedule is stepped after epoch e with the number e, so epochs 0 and 1 share the first rate
        epoch = max(self.last_step - 1, 0)
        return [self._rate(epoch, base) for base in self.base_values]

    def _rate(self, epoch: int, base: float) -> float:
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (base - self.warmup_lr) * epoch / self.warmup_epochs
        return self.eta_min + (base - self.eta_min) / 2 * (1 + math.cos(math.pi * epoch / self.end))
