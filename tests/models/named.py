"""The registered models as parameters of a test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from visionsparse.zoo import list_models, variant


def named(quick_up_to: float, task: str | None = None) -> list[Any]:
    """Every model's name (for `task`), those of more parameters marked slow."""
    return [
        pytest.param(name, marks=pytest.mark.slow if variant(name).facts["params"] > quick_up_to else ())
        for name in list_models(task=task)
    ]


def smallest_images(name: str, batch: int = 2) -> Tensor:
    """Random images of the smallest size that the model takes."""
    channels, side = variant(name).facts["input_size"][0], variant(name).facts["smallest_input"]
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(2))
