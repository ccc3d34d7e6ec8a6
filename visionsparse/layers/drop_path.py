"""Stochastic depth: in training, a residual branch is dropped for whole samples (Huang et al., arXiv 1603.09382)."""

from __future__ import annotations

import torch
from torch import nn


class DropPath(nn.Module):
    """Zeroes each sample of a batch with probability `rate` and divides the others by `1 - rate`; identity in eval.

    Args:
        rate: 0 <= rate < 1.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop path rate is {rate}, expected 0 <= rate < 1")
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, ...) of any float dtype -> the same."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"
