"""Randomness without state: before each epoch and each iteration the generators are seeded anew from
(seed, rank, position). A resumed run then draws the same numbers as one that never stopped, with nothing to save, and
whatever validation drew in between; and no two processes share their drop-path masks.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from visionsparse.registry import HOOKS


def seed_everything(*position: Any) -> None:
    """Seeds python, numpy and torch (all devices) by a hash of `position`."""
    digest = hashlib.blake2b(repr(position).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@HOOKS.register_module()
class StatelessSeedHook(Hook):
    """Seeds every epoch and every iteration by where it stands in the run."""

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Any) -> None:
        seed_everything(runner.seed, get_rank(), "epoch", runner.epoch)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(runner.seed, get_rank(), "iteration", runner.iter)
