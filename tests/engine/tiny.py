"""A net, images and a config so small that training takes a second; with all that makes resuming hard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from visionsparse.registry import MODELS

NUM_CLASSES = 3
TRAIN_IMAGES = 48
VAL_IMAGES = 18
BATCH_SIZE = 6
BATCHES = TRAIN_IMAGES // BATCH_SIZE


@MODELS.register_module()
class TinyNet(nn.Module):
    """Has running statistics, dropout and a bias: state, randomness and a parameter without decay."""

    def __init__(self, num_classes: int = NUM_CLASSES, drop_rate: float = 0.2, frozen_norm: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.frozen_norm = frozen_norm
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(nn.init.ones_(self.stem.weight.new_empty(1, 8)))
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(8, num_classes)

    def no_weight_decay(self) -> set[str]:
        return {"scale"}

    def train(self, mode: bool = True) -> TinyNet:
        super().train(mode)
        if self.frozen_norm:
            self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.stem(x)).relu().mean(dim=(2, 3))
        return self.head(self.drop(features * self.scale))


def write_images(root: Path, num_classes: int = NUM_CLASSES) -> Path:
    """Class folders below train/ and val/; the colour tells the class, with noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES)):
        for index in range(count):
            label = index % num_classes
            pixels = random.integers(0, 200, (32, 32, 3), dtype=np.uint8)
            pixels[..., label % 3] += 40
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return root


def tiny_config(data_root: Path) -> dict[str, Any]:
    """Three epochs of eight batches, accumulation by two, dropout, flips, EMA, validation after each epoch."""

    def loader(split: str, **more: Any) -> dict[str, Any]:
        dataset = dict(type="ImageNet", data_root=str(data_root), split=split)
        return {"batch_size": BATCH_SIZE, "collate_fn": dict(type="default_collate"), "dataset": dataset, **more}

    in_order = dict(sampler=dict(type="EpochSampler", shuffle=False, round_up=False))
    config = dict(
        model=dict(type="ImageClassifier", backbone=dict(type="TinyNet")),
        train_dataloader=loader("train", sampler=dict(type="EpochSampler"), num_workers=0),
        train_cfg=dict(max_epochs=3),
        optim_wrapper=dict(
            constructor="NoDecayConstructor",
            optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.05),
            accumulative_counts=2,
            clip_grad=dict(max_norm=1.0),
        ),
        param_scheduler=dict(type="CosineAnnealingLR", T_max=3, by_epoch=True, convert_to_iter_based=True),
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", interval=1, save_best="top1"),
            ema=dict(type="EMAHook", momentum=0.1),
        ),
        log_processor=dict(type="ProgressLogProcessor"),
        randomness=dict(seed=3),
    )
    config["train_dataloader"]["dataset"]["pipeline"] = [dict(type="RandomHorizontalFlip")]
    for split in ("val", "test"):
        config[f"{split}_dataloader"] = loader("val", **in_order)
        config[f"{split}_cfg"] = dict()
        config[f"{split}_evaluator"] = dict(type="ClassificationMetric")
    return config


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """The config as a file; `from tiny import` would not be data."""
    path.write_text("\n".join(f"{key} = {value!r}" for key, value in config.items()) + "\n")
    return path
