"""`visionsparse benchmark models`: images a second of nets of the zoo and of timm, in evaluation mode without a graph.

A net of the zoo is measured twice: with its ops on the backend that is fastest here, and with "reference".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from visionsparse import ops
from visionsparse.benchmark.plan import Call, Candidate, Group
from visionsparse.errors import UnknownNameError, did_you_mean
from visionsparse.zoo import create_model, variants


def model_groups(
    names: Sequence[str],
    device: torch.device,
    *,
    image_size: int = 224,
    batch_sizes: Sequence[int] = (1, 8),
    threads: Sequence[int] = (1,),
) -> list[Group]:
    """One group a batch size and number of threads; speeds are told against the first name.

    Raises:
        UnknownNameError: a name that neither the zoo nor timm has.
    """
    for name in names:
        _check(name)
    found = []
    for batch_size in batch_sizes:
        case = f"{image_size} px, batch {batch_size}"
        images = torch.randn(batch_size, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
        candidates = [
            Candidate(
                label,
                case,
                partial(_call, name, backend, images, device),
                {"model": name, "backend": backend, "shape": f"{batch_size} x 3 x {image_size} x {image_size}"},
                items=batch_size,
            )
            for name in names
            for label, backend in _forms(name, device)
        ]
        first = candidates[0].name
        found += [
            Group(
                f"{case}, {device.type if device.type == 'cuda' else f'threads {number}'}",
                candidates,
                baseline=first,
                ours=first,
                device=device,
                threads=number,
                setting={"pass": "forward", "dtype": "float32"},
            )
            for number in threads
        ]
    return found


def _check(name: str) -> None:
    import timm

    if name not in variants() and not timm.is_model(name):
        known = [*variants(), *timm.list_models()]
        raise UnknownNameError(f"{name!r} is a model of neither visionsparse nor timm.{did_you_mean(name, known)}")


def _forms(name: str, device: torch.device) -> list[tuple[str, str | None]]:
    """(label, backend of the ops)."""
    if name not in variants():
        return [(f"{name} (timm)", None)]
    fast = "triton" if device.type == "cuda" else "torch"
    return [(f"{name}, {backend}", backend) for backend in (fast, "reference")]


def _call(name: str, backend: str | None, images: torch.Tensor, device: torch.device) -> Call:
    net, images = _net(name).eval().to(device), images.to(device)

    def call() -> torch.Tensor:
        with torch.inference_mode(), ops.use_backend(backend or "auto"):
            return net(images)

    return call


def _net(name: str) -> nn.Module:
    if name in variants():
        return create_model(name)
    import timm

    return timm.create_model(name)
