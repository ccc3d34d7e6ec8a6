"""The shapes at which every kernel is compiled ahead of time: an op's tensors and addresses, on the meta device.

A new op adds its own to `cases`; each of its kernels is then inspected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from visionsparse.ops.cost import AttentionSize, block_sparse_size, routed_size
from visionsparse.ops.triton import block_sparse_attention, routed_attention
from visionsparse.ops.triton.launch import (
    Address,
    Launch,
    backward_keys_launch,
    backward_queries_launch,
    forward_launch,
)
from visionsparse.ops.triton.target import Target

KERNELS = ("forward", "backward_queries", "backward_keys")
DTYPES = ("bf16", "fp16", "tf32", "ieee")  # tf32, ieee: float32 with and without torch's leave to use tf32
WIDTHS = (32, 64, 128)


class Inputs(NamedTuple):
    q: Tensor  # (B, H, N, D)
    k: Tensor
    v: Tensor
    address: Address
    inverted: Address


class Case(NamedTuple):
    name: str
    shape: str
    build: Callable[[int, torch.dtype], Inputs]  # of a head width and a dtype
    size: Callable[[int], AttentionSize]  # of a head width
    list_length: int  # positions in the mean list, of a query group as of a key group
    dtypes: tuple[str, ...] = DTYPES
    widths: tuple[int, ...] = WIDTHS


def cases() -> dict[str, Case]:
    """By name. What an argument changes in a kernel is compiled at one dtype and width."""
    found = [
        _block_sparse("blocks of 64", (64, 64)),
        _block_sparse("blocks of 128", (128, 128)),
        _at_one(_block_sparse("blocks of 64 x 128", (64, 128))),
        _at_one(_block_sparse("key padding", (64, 64), padded=True)),
        _at_one(_block_sparse("values twice as wide", (64, 64), value_widths=2)),
        _routed("BiFormer-S, stage 2 at 224 px", batch=8, heads=4, size=28, regions=7, topk=4, weighted=False),
        _routed("448 px, stage 1", batch=8, heads=2, size=112, regions=7, topk=4, weighted=True),
    ]
    return {case.name: case for case in found}


def _at_one(case: Case) -> Case:
    return case._replace(dtypes=("bf16",), widths=(64,))


def launches(inputs: Inputs, target: Target) -> dict[str, Launch]:
    """The three launches of a training step."""
    q, k, v, address, inverted = inputs
    out = v.new_empty(*q.shape[:3], v.shape[3])
    lse = torch.empty(q.shape[:3], device="meta")
    backward = (out, q, k, v)  # grad_out first
    return {
        "forward": forward_launch(q, k, v, address, 1.5, out, lse, target),
        "backward_queries": backward_queries_launch(*backward, out, lse, address, 1.5, lse, q, target),
        "backward_keys": backward_keys_launch(*backward, lse, lse, inverted, 1.5, k, v, target),
    }


def _block_sparse(what: str, block_size: tuple[int, int], *, padded: bool = False, value_widths: int = 1) -> Case:
    """Batch 1, 8 heads, 8,192 tokens, an eighth of the blocks."""
    batch, heads, tokens, share = 1, 8, 8192, 8
    blocks = [tokens // size for size in block_size]  # of queries, of keys
    listed = [number // share for number in reversed(blocks)]  # by a query block, by a key block

    def build(width: int, dtype: torch.dtype) -> Inputs:
        q = torch.empty(batch, heads, tokens, width, dtype=dtype, device="meta")
        v = torch.empty(batch, heads, tokens, value_widths * width, dtype=dtype, device="meta")
        mask = torch.empty(batch, tokens, dtype=torch.uint8, device="meta") if padded else None
        lists = [
            (
                torch.empty(1, heads, number, dtype=torch.int32, device="meta"),
                torch.empty(1, heads, number, length, dtype=torch.int32, device="meta"),
            )
            for number, length in zip(blocks, listed, strict=True)
        ]
        addresses = block_sparse_attention.addresses
        address = addresses(q, q, *lists[0], block_size[0], block_size[1], listed_mask=mask)
        inverted = addresses(q, q, *lists[1], block_size[1], block_size[0], own_mask=mask)
        return Inputs(q, q, v, address, inverted)

    def size(width: int) -> AttentionSize:
        return block_sparse_size(batch, heads, tokens, block_size, listed[0], width, value_widths * width)

    shape = f"batch {batch}, {heads} heads, {tokens} tokens, blocks of {block_size[0]} x {block_size[1]}"
    shape += f", density {1 / share:g}" + (", a key padding mask" if padded else "")
    shape += f", values of {value_widths} x the width" if value_widths > 1 else ""
    return Case(f"block_sparse_attention ({what})", shape, build, size, list_length=listed[0] * block_size[1])


def _routed(where: str, batch: int, heads: int, size: int, regions: int, topk: int, weighted: bool) -> Case:
    """A square map of size x size tokens in regions x regions regions."""
    region = (size // regions, size // regions)
    tokens = region[0] * region[1]

    def build(width: int, dtype: torch.dtype) -> Inputs:
        x = torch.empty(batch, size, size, heads, width, dtype=dtype, device="meta").permute(0, 3, 1, 2, 4)
        routes = torch.empty(batch, 1, regions**2, topk, dtype=torch.int32, device="meta")
        weights = torch.empty(routes.shape, device="meta") if weighted else None
        sides = (x, x, routes, weights, region, region)
        rows = x.flatten(2, 3)
        address, inverted = routed_attention.addresses(*sides), routed_attention.inverted_addresses(*sides)
        return Inputs(rows, rows, rows, address, inverted)

    return Case(
        "routed_attention" + (" (weighted)" if weighted else ""),
        f"{where}: batch {batch}, {heads} heads, {size} x {size} tokens, regions of {tokens}, topk {topk}",
        build,
        lambda width: routed_size(batch, heads, size, regions, topk, width),
        list_length=topk * tokens,
    )
