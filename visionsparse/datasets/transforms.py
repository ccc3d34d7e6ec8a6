"""torchvision's transforms (v2), by name in configs: `dict(type="Resize", size=256, interpolation="bicubic")`.

They work on PIL images, whose resampling is the one that published accuracies were measured with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from visionsparse.errors import ConfigError, did_you_mean
from visionsparse.registry import TRANSFORMS

Transform = Callable[[Any], Any]

_TORCHVISION = (
    v2.Resize,
    v2.CenterCrop,
    v2.RandomCrop,
    v2.RandomResizedCrop,
    v2.RandomHorizontalFlip,
    v2.RandomAffine,
    v2.ColorJitter,
    v2.Pad,
)


def build_pipeline(pipeline: Sequence[Mapping | Transform]) -> list[Transform]:
    """Builds each config of `pipeline`; what is callable already is kept."""
    return [TRANSFORMS.build(dict(step)) if isinstance(step, Mapping) else step for step in pipeline]


def to_tensor(image: Image.Image | torch.Tensor) -> torch.Tensor:
    """uint8 (3, height, width) of a PIL RGB image. A tensor, which a pipeline may end in, stays as it is."""
    if isinstance(image, torch.Tensor):
        return image
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _register(transform: type[v2.Transform]) -> None:
    def build(**kwargs: Any) -> v2.Transform:
        if isinstance(kwargs.get("interpolation"), str):
            kwargs["interpolation"] = interpolation_mode(kwargs["interpolation"])
        return transform(**kwargs)

    build.argument_names = lambda: set(inspect.signature(transform).parameters)  # type: ignore[attr-defined]
    TRANSFORMS.register_module(name=transform.__name__, module=build)


def interpolation_mode(name: str) -> InterpolationMode:
    """torchvision's mode of that name ("bicubic"); a ConfigError names the near miss."""
    modes = {mode.value for mode in InterpolationMode}
    if name not in modes:
        raise ConfigError(f"interpolation: {name!r} is not known.{did_you_mean(name, modes)}")
    return InterpolationMode(name)


for _transform in _TORCHVISION:
    _register(_transform)
