"""Inputs of routed attention for the tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from tests.ops.kit import DTYPES, OpInputs, Plug
from visionsparse import ops
from visionsparse.ops.regions import region_grid


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
) -> OpInputs:
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
    return OpInputs(
        ops.routed_attention, tensors, dict(routes=routes, region_size=region_size, kv_region_size=kv_region_size)
    )


_pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
_maps = st.tuples(st.integers(1, 7), st.integers(1, 7))

ROUTED = Plug(
    make=make_inputs,
    strategy=st.builds(
        make_inputs,
        batch=st.integers(1, 2),
        heads=st.integers(1, 4),
        size=_maps,
        kv_size=st.none() | _maps,
        region_size=_pairs | st.just((6, 6)),  # 36 queries: the fused path
        kv_region_size=st.none() | _pairs,
        channels=st.integers(1, 5),
        value_channels=st.integers(1, 5),
        topk=st.integers(1, 5),
        shared_routes=st.booleans(),
        weighted=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 1000),
    ),
    variants={
        "plain": dict(size=(3, 4), region_size=(2, 2)),
        "weighted": dict(size=(3, 4), region_size=(2, 2), weighted=True),
        "fused": dict(size=(3, 4), region_size=(2, 2), value_channels=4),
        "fused and weighted": dict(size=(3, 4), region_size=(2, 2), value_channels=4, weighted=True),
        "each head its routes": dict(size=(3, 4), region_size=(2, 2), value_channels=4, shared_routes=False),
        "masked": dict(size=(4, 3), region_size=(2, 1), value_channels=4),
    },
    composed=("masked",),
    large=dict(size=(20, 20), region_size=(2, 2), channels=16, value_channels=16, topk=16),
)
