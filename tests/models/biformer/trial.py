"""Trials of the ImageNet recipes: on a few of the embedded digits, with small images, batches and nets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VARIANTS = ["tiny", "small", "base", "stl", "stl_nchw"]
WITHOUT_VALIDATION = {"val_cfg": None, "val_dataloader": None, "val_evaluator": None}


def recipe(variant: str) -> str:
    return f"biformer/biformer_{variant}_in1k"


def on_digits(digits: Path, size: int = 112, batch_size: int = 4) -> dict[str, Any]:
    """What a trial of a recipe changes: data, size of images and batches; no checkpoints."""
    options: dict[str, Any] = {
        "model.backbone.num_classes": 10,
        "train_dataloader.batch_size": batch_size,
        "train_dataloader.dataset.pipeline.0.size": size,
        "val_dataloader.dataset.pipeline.0.size": size,
        "val_dataloader.dataset.pipeline.1.size": size,
        "train_cfg.max_epochs": 1,
        "default_hooks.logger.interval": 1,
        "default_hooks.checkpoint.interval": -1,
        "default_hooks.checkpoint.save_best": None,
    }
    for split in ("train", "val"):
        options[f"{split}_dataloader.num_workers"] = 0
        options[f"{split}_dataloader.dataset.data_root"] = str(digits)
    return options


def records(work_dir: Path, key: str) -> list[dict[str, Any]]:
    (scalars,) = work_dir.glob("**/scalars.json")
    return [record for record in map(json.loads, scalars.read_text().splitlines()) if key in record]


def nano(digits: Path, num_workers: int) -> dict[str, Any]:
    """The recipe with biformer_nano: three batches an epoch, a step every two, steep from the start."""
    options = on_digits(digits, size=32, batch_size=3)
    options.update(
        {
            "model.backbone": dict(_delete_=True, type="biformer_nano", num_classes=10, drop_path_rate=0.4),
            "optim_wrapper.accumulative_counts": 2,
            "param_scheduler.warmup_lr": 1e-3,
            "default_hooks.ema.momentum": 0.1,
            "default_hooks.checkpoint.interval": 1,
            "default_hooks.checkpoint.by_epoch": False,
            "train_cfg.max_epochs": 3,
            "train_dataloader.num_workers": num_workers,
        }
    )
    return options


def evaluation(digits: Path) -> dict[str, Any]:
    """The evaluation of the recipe with biformer_nano."""
    return {
        "model.backbone": dict(_delete_=True, type="biformer_nano", num_classes=10),
        "test_dataloader.num_workers": 0,
        "test_dataloader.dataset.data_root": str(digits),
        "test_dataloader.dataset.pipeline.0.size": 32,
        "test_dataloader.dataset.pipeline.1.size": 32,
    }
