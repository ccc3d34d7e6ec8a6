"""Inputs of routed attention for the tests: named tensors and the call's other arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from visionsparse import ops
from visionsparse.ops.regions import region_grid


class RoutedInputs(NamedTuple):
    tensors: dict[str, torch.Tensor]  # q, k, v and perhaps route_weights: all that is differentiable
    arguments: dict[str, Any]  # routes and the rest

    def call(self, **changed: Any) -> Any:
        return ops.routed_attention(**{**self.tensors, **self.arguments, **changed})

    def run(self, backend: str, **changed: Any) -> dict[str, torch.Tensor]:
        """Output and the gradient of every input, for one random upstream gradient."""
        tensors = {name: x.detach().requires_grad_() for name, x in self.tensors.items()}
        with ops.use_backend(backend):
            out = ops.routed_attention(**{**tensors, **self.arguments, **changed})
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        grads = torch.autograd.grad(out, list(tensors.values()), upstream.to(out.dtype))
        return {"out": out.detach(), **{f"grad of {n}": g for n, g in zip(tensors, grads, strict=True)}}

    def to(self, dtype: torch.dtype) -> RoutedInputs:
        return self._replace(tensors={name: x.to(dtype) for name, x in self.tensors.items()})


def make_inputs(
    *,
    batch: int = 2,
    heads: int = 2,
    size: tuple[int, int] = (4, 6),
    kv_size: tuple[int, int] | None = None,
    region_size: tuple[int, int] = (2, 3),
    kv_region_size: tuple[int, int] | None = None,
    channels: int = 4,
    value_channels: int = 3,
    topk: int = 2,
    shared_routes: bool = True,
    weighted: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> RoutedInputs:
    """Random maps and routes; a region may be listed twice."""
    generator = torch.Generator().manual_seed(seed)
    kv_size = size if kv_size is None else kv_size
    rows, columns = region_grid(*size, region_size)
    kv_rows, kv_columns = region_grid(*kv_size, region_size if kv_region_size is None else kv_region_size)
    routes = torch.randint(
        0, kv_rows * kv_columns, (batch, 1 if shared_routes else heads, rows * columns, topk), generator=generator
    )

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    tensors = {
        "q": draw(batch, heads, *size, channels),
        "k": draw(batch, heads, *kv_size, channels),
        "v": draw(batch, heads, *kv_size, value_channels),
    }
    if weighted:
        tensors["route_weights"] = draw(*routes.shape)
    return RoutedInputs(tensors, dict(routes=routes, region_size=region_size, kv_region_size=kv_region_size))


def assert_all_close(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
