"""The first batch of a config, as the model gets it: read, augmented, collated, and mixed by the task model.

Nothing is random but the config's seed: version 0 is the very batch that training starts with (on one process), the
further ones are the same images as later epochs augment them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor

from visionsparse.config import check_config, load_config, model_of
from visionsparse.datasets.sampler import SampleKey
from visionsparse.engine.seeding import seed_everything
from visionsparse.errors import ConfigError, InputError
from visionsparse.registry import MODELS

_A_FEW = 8


@dataclass(frozen=True)
class FirstBatch:
    """The first samples of a batch.

    Attributes:
        labels: one a sample, of the original.
        originals: (height, width, 3) uint8, as the files hold them.
        images: one (samples, height, width, 3) uint8 array a version, what the net gets, without the normalisation.
        targets: one a version: (samples,) int64 labels, or (samples, classes) shares where images are mixed.
        class_names: by label; numbers where the data set does not say.
    """

    labels: list[int]
    originals: list[np.ndarray]
    images: list[np.ndarray]
    targets: list[Tensor]
    class_names: Sequence[str]


def first_batch(
    config: str | Path,
    *,
    split: str = "train",
    num: int | None = None,
    versions: int = 3,
    options: Mapping[str, Any] | None = None,
) -> FirstBatch:
    """The first `num` samples (eight if not given) of the first batch of `<split>_dataloader`, in `versions` versions.

    Raises:
        ConfigError: the config lacks the model or the loader, or has a wrong key.
        InputError: `num` is not in the batch.
        DataError: the data can't be read.
    """
    cfg = load_config(config, options)
    key = f"{split}_dataloader"
    if not cfg.get(key) or "model" not in cfg:
        raise ConfigError(f"{cfg.filename}: needs `model` and `{key}` to show a batch of {split}.")
    check_config(Config({name: cfg[name] for name in ("model", key)}, filename=cfg.filename))
    seed = (cfg.get("randomness") or {}).get("seed") or 0
    with DefaultScope.overwrite_default_scope("visionsparse"):
        model = _build_model(cfg, is_training=split == "train")
        loader = _build_loader(cfg[key], seed)
    dataset = loader.dataset
    keys = [key if isinstance(key, tuple) else SampleKey(int(key)) for key in next(iter(loader.batch_sampler))]
    num = min(_A_FEW, len(keys)) if num is None else num
    if not 1 <= num <= len(keys):
        raise InputError(f"num={num}: a batch of {split} has {len(keys)} samples: choose 1 to {len(keys)} of them.")
    if not getattr(model, "batch_augments", None):
        keys = keys[:num]  # the others have no part in these
    as_file = copy.copy(dataset)
    as_file.pipeline = []
    images, targets = [], []
    for epoch in range(versions):
        batch = loader.collate_fn([dataset[SampleKey(index, epoch, repeat)] for index, _, repeat in keys])
        seed_everything(seed, 0, "iteration", epoch)
        inputs, target = _as_the_net_gets_it(model, batch)
        images.append(_to_pixels(inputs[:num], model.data_preprocessor))
        targets.append(target[:num])
    read = [as_file[key] for key in keys[:num]]
    originals, labels = [sample["inputs"].permute(1, 2, 0).numpy() for sample in read], [s["label"] for s in read]
    names = getattr(dataset, "class_names", None) or [f"class {label}" for label in range(max(labels) + 1)]
    return FirstBatch(labels, originals, images, targets, names)


def _build_model(config: Config, is_training: bool) -> Any:
    return MODELS.build(model_of(config)).train(is_training)


def _build_loader(loader: Mapping, seed: int) -> Any:
    """mmengine's loader in this process: without what is there for workers and the GPU."""
    plain = copy.deepcopy(dict(loader))
    for unused in ("persistent_workers", "prefetch_factor", "pin_memory"):
        plain.pop(unused, None)
    plain["num_workers"] = 0
    plain["dataset"].setdefault("seed", seed)
    return Runner.build_dataloader(plain, seed)


def _as_the_net_gets_it(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        data = model.data_preprocessor(batch, model.training)
        if model.training and getattr(model, "batch_augments", None):
            return model.augment(data["inputs"], data["label"])
        return data["inputs"], data["label"]


def _to_pixels(inputs: Tensor, preprocessor: Any) -> np.ndarray:
    """(B, 3, height, width) normalised -> (B, height, width, 3) uint8."""
    images = inputs * preprocessor.std + preprocessor.mean
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
