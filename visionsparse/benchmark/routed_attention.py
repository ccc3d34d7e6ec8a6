"""routed_attention at the sizes of BiFormer-S's stages (224 px) and on a 64 x 64 map, against plain PyTorch.

Source of the sizes: BiFormer, arXiv 2303.08810, table 1: 7 x 7 regions, topk 1, 4, 16, heads of 32 channels.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from visionsparse import ops
from visionsparse.benchmark.attention_call import attention_call
from visionsparse.benchmark.plan import Call, Candidate
from visionsparse.benchmark.routed_baselines import BASELINES, STRONGEST_PLAIN, Form, Maps, Prepared
from visionsparse.ops.cost import routed_size

BASELINE = STRONGEST_PLAIN


class Case(NamedTuple):
    name: str
    batch: int
    heads: int
    size: int  # of the square map, tokens a side
    regions: int  # a side
    topk: int
    width: int = 32

    @property
    def region_size(self) -> tuple[int, int]:
        return (self.size // self.regions,) * 2

    def draw(self, device: torch.device, dtype: torch.dtype) -> tuple[Maps, Tensor, Tensor]:
        """Random maps, distinct random routes of every region (shared by the heads), a gradient of the output."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.size, self.size)

        def normal(*channels: int) -> Tensor:
            return torch.randn(*shape, *channels, generator=generator).to(device, dtype)

        affinity = torch.rand(self.batch, 1, self.regions**2, self.regions**2, generator=generator)
        routes = affinity.topk(self.topk, dim=-1).indices.to(device)
        maps = Maps(normal(3 * self.heads * self.width), self.heads)
        return maps, routes, normal(self.heads, self.width).permute(0, 3, 1, 2, 4)


CASES = (
    Case("stage 1", batch=8, heads=2, size=56, regions=7, topk=1),
    Case("stage 2", batch=8, heads=4, size=28, regions=7, topk=4),
    Case("stage 3", batch=8, heads=8, size=14, regions=7, topk=16),
    Case("64 x 64", batch=1, heads=2, size=64, regions=16, topk=16),
)


def candidates(case: Case, device: torch.device, dtype: torch.dtype, backward: bool) -> list[Candidate]:
    """Our backends, then the plain forms."""
    size = routed_size(case.batch, case.heads, case.size, case.regions, case.topk, case.width)
    cost = size.cost("forward", dtype.itemsize)
    if backward:
        cost += size.cost("backward", dtype.itemsize)
    facts = {
        "shape": f"batch {case.batch}, {case.heads} heads of {case.width}, {case.size} x {case.size} tokens,"
        f" {case.regions} x {case.regions} regions, topk {case.topk}",
        "density": case.topk / case.regions**2,
    }
    forms = {f"visionsparse {name}": partial(_ours, name) for name in _backends(device)} | BASELINES

    def prepare(form: Form) -> Call:
        maps, routes, upstream = case.draw(device, dtype)
        function, tensors = form(maps, routes, case.region_size)
        return attention_call(function, tensors, upstream if backward else None)

    return [Candidate(name, case.name, partial(prepare, form), facts, cost) for name, form in forms.items()]


def _backends(device: torch.device) -> tuple[str, ...]:
    return ("triton", "torch", "reference") if device.type == "cuda" else ("torch", "reference")


def _ours(backend: str, maps: Maps, routes: Tensor, region_size: tuple[int, int]) -> Prepared:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with ops.use_backend(backend):
            out = ops.routed_attention(q, k, v, routes, region_size=region_size)
            assert isinstance(out, Tensor)  # not the attention too
            return out

    return function, maps.qkv_heads()
