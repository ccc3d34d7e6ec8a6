"""Inputs of block-sparse attention for the tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from tests.ops.kit import DTYPES, OpInputs, Plug
from visionsparse import ops


def make_inputs(
    *,
    batch: int = 2,
    heads: int = 2,
    num_queries: int = 10,
    num_keys: int = 11,
    block_size: tuple[int, int] = (4, 3),
    channels: int = 4,
    value_channels: int = 3,
    density: float = 0.5,
    shared_over_batch: bool = False,
    shared_over_heads: bool = False,
    padded: bool = False,
    as_lists: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> OpInputs:
    """Random tokens and a random mask; with `padded`, about a third of the keys don't take part."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    def choose(share: float, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) < share

    tensors = {
        "q": draw(batch, heads, num_queries, channels),
        "k": draw(batch, heads, num_keys, channels),
        "v": draw(batch, heads, num_keys, value_channels),
    }
    blocks = (-(-num_queries // block_size[0]), -(-num_keys // block_size[1]))
    mask = choose(density, 1 if shared_over_batch else batch, 1 if shared_over_heads else heads, *blocks)
    return OpInputs(
        ops.block_sparse_attention,
        tensors,
        dict(
            block_mask=ops.BlockLists.from_mask(mask) if as_lists else mask,
            block_size=block_size,
            key_padding_mask=choose(0.7, batch, num_keys) if padded else None,
        ),
    )


_FUSED = dict(batch=1, heads=1, num_queries=70, num_keys=50, block_size=(32, 16), channels=2, value_channels=2)

BLOCK_SPARSE = Plug(
    make=make_inputs,
    strategy=st.builds(
        make_inputs,
        batch=st.integers(1, 2),
        heads=st.integers(1, 4),
        num_queries=st.integers(1, 40),
        num_keys=st.integers(1, 20),
        block_size=st.tuples(st.integers(1, 6), st.integers(1, 6)) | st.just((32, 5)),  # 32 queries: the fused path
        channels=st.integers(1, 5),
        value_channels=st.integers(1, 5),
        density=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
        shared_over_batch=st.booleans(),
        shared_over_heads=st.booleans(),
        padded=st.booleans(),
        as_lists=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 1000),
    ),
    variants={
        "mask": {},
        "padded": dict(padded=True),
        "shared lists": dict(shared_over_batch=True, shared_over_heads=True, as_lists=True),
        "fused": dict(**_FUSED, density=0.6),
        "fused and padded": dict(**_FUSED, density=0.6, padded=True),
    },
    large=dict(num_queries=700, num_keys=600, block_size=(32, 16), channels=16, value_channels=16),
)
