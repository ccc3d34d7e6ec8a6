"""What a kernel is launched or compiled for: a chip, and how it multiplies float32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from visionsparse.ops.triton.attention import INTERPRETED


class Target(NamedTuple):
    capability: int  # 80, 90, ...
    precision: str  # of float32 products: "tf32" or "ieee"

    @classmethod
    def of(cls, x: Tensor) -> Target:
        if INTERPRETED:
            return cls(80, "ieee")
        major, minor = torch.cuda.get_device_capability(x.device)
        return cls(10 * major + minor, "tf32" if _allows_tf32() else "ieee")


def _allows_tf32() -> bool:
    """By either of torch's switches: reading allow_tf32 is an error where the newer one was used."""
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", "none")
    return torch.backends.cuda.matmul.allow_tf32 if precision == "none" else precision == "tf32"
