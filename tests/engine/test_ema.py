from __future__ import annotations

import torch

from tests.engine.tiny import BATCHES
from visionsparse.checkpoint import read_checkpoint
from visionsparse.engine.runner import train

MOMENTUM = 0.25


def test_averages_move_by_the_momentum_at_each_step_of_an_accumulating_optimiser(config, tmp_path) -> None:
    options = {
        "default_hooks.checkpoint": dict(type="CheckpointHook", by_epoch=False, interval=1, save_best=None),
        "default_hooks.ema": dict(type="EMAHook", momentum=MOMENTUM, update_buffers=True),
        "optim_wrapper.accumulative_counts": 2,
        "train_cfg.max_epochs": 1,
    }

    train(config, work_dir=tmp_path, options=options)

    files = [read_checkpoint(tmp_path / f"iter_{number}.pth") for number in range(2, BATCHES + 1, 2)]
    for name in ("backbone.stem.weight", "backbone.norm.running_mean"):
        average = files[0]["ema_state_dict"][f"module.{name}"]  # a file has them swapped: here are the raw weights
        for file in files:
            average = (1 - MOMENTUM) * average + MOMENTUM * file["ema_state_dict"][f"module.{name}"]
            torch.testing.assert_close(file["state_dict"][name], average)
