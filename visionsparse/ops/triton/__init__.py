"""GPU kernels of the ops, one file per op, same file names. Triton is imported where a kernel is called, not here."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from visionsparse.ops import dispatch

MAX_WIDTH = 256
MAX_COUNT = 2**31 - 1  # rows of a head and places in a list are int32 in the kernels; addresses are as wide as needed
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def why_not_attention(q: Tensor, v: Tensor) -> str | None:
    """Why the attention kernels can't take these tensors, as a sentence, or None."""
    if (reason := _why_not_device(q.device.type, q.device.index, dispatch._last_forced)) is not None:
        return reason
    if q.dtype not in _DTYPES:
        return f"its kernels compute float16, bfloat16 and float32, not {str(q.dtype).removeprefix('torch.')}."
    for name, width in (("head", q.shape[-1]), ("value", v.shape[-1])):
        if width > MAX_WIDTH:
            return f"its kernels take {name} widths up to {MAX_WIDTH}, not {width}."
    return None


def why_not_counts(**counts: int) -> str | None:
    """Why the attention kernels can't count so many `tokens of q` (a keyword with _ for each space), or None."""
    for name, count in counts.items():
        if count > MAX_COUNT:
            return f"its kernels count up to {MAX_COUNT} {name.replace('_', ' ')}, not {count}: call it in parts."
    return None


def _why_not_device(device: str, index: int | None, last_forced: str | None) -> str | None:
    """A constant to torch.compile, guarded by its arguments (as dispatch._chosen_name, where the mark is explained)."""
    if not _is_installed():
        return "Triton is not installed: pip install triton."
    if os.environ.get("TRITON_INTERPRET") == "1" and device in ("cpu", "cuda"):
        if dispatch._chosen_name(last_forced) == "triton":
            return None
        return "under TRITON_INTERPRET=1 it is interpreted, which is for tests: force it by use_backend('triton')."
    if device != "cuda" or torch.version.hip is not None:
        return "it needs tensors on an NVIDIA GPU (or TRITON_INTERPRET=1, for tests)."
    major, minor = torch.cuda.get_device_capability(index)
    if major < 8:
        return f"its kernels are made for compute capability 8.0 and newer, this GPU has {major}.{minor}."
    return None


_why_not_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None  # looks at files: a fifth of the time of a small call
