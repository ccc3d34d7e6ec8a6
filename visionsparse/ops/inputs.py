"""What every attention op asks of its inputs, and what autocast makes of them: one place, shared by the ops."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from visionsparse.errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as torch's own attention would get them: in autocast's dtype, float64 left alone."""
    device = tensors[0].device.type
    if not _is_autocast(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors)


def without_autocast(device: str) -> contextlib.AbstractContextManager[None]:
    """So that autocast does not round what a backend computes in float32."""
    return torch.autocast(device, enabled=False) if _is_autocast(device) else contextlib.nullcontext()


def _is_autocast(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)  # asking about meta is an error


def can_look_at(x: Tensor) -> bool:
    """Whether reading values is free: on CUDA it would wait for the device, and a compiler has no values."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def check_qkv(q: Tensor, k: Tensor, v: Tensor, extents: tuple[str, ...]) -> None:
    """Refuse q, k and v that are not (B, H, *extents, channels) of one device, dtype, batch, head count and width."""
    layout = ", ".join(extents)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != len(extents) + 3:
            raise InputError(f"{name} has {x.dim()} dimensions {tuple(x.shape)}: give (B, H, {layout}, D).")
    if q.dtype not in FLOATS:
        raise InputError(f"q is {dtype_name(q.dtype)}: give float16, bfloat16, float32 or float64.")
    for name, x in (("k", k), ("v", v)):
        if x.shape[:2] != q.shape[:2]:
            raise InputError(
                f"{name} has {x.shape[0]} images and {x.shape[1]} heads but q has {q.shape[0]} and {q.shape[1]}:"
                f" give {name} as ({q.shape[0]}, {q.shape[1]}, {layout}, channels)."
            )
        if x.device != q.device:
            raise InputError(f"{name} is on {x.device} but q on {q.device}: move them to one device.")
        if x.dtype != q.dtype:
            raise InputError(f"{name} is {dtype_name(x.dtype)} but q {dtype_name(q.dtype)}: cast them to one dtype.")
    if k.shape[-1] != q.shape[-1] or q.shape[-1] == 0:
        raise InputError(f"k has width {k.shape[-1]} but q {q.shape[-1]}: give both the same width, at least 1.")
    if v.shape[-1] == 0:
        raise InputError("v has width 0: give values of a width of at least 1.")


def check_scale(scale: float) -> float:
    if not 0 <= scale < float("inf"):  # false for NaN, too
        raise InputError(f"scale is {scale}: give a finite number of at least 0, or None for D ** -0.5.")
    return float(scale)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
