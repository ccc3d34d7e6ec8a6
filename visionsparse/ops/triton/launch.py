"""The attention kernels' host side: an op's addresses, tile sizes and arguments, kept as data.

A `Launch` is run here, or compiled ahead of time for a chip that is elsewhere (tools/inspect_kernels.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from visionsparse.ops.triton.attention import backward_keys_kernel, backward_queries_kernel, forward_kernel
from visionsparse.ops.triton.target import Target
from visionsparse.ops.triton.tiles import Tile, choose_tile


class Address(NamedTuple):
    """One side of an op, queries or (inverted) keys: where its rows lie, and those that they list."""

    own: Any  # jit functions: see attention.py
    length: Any
    listed: Any
    operands: tuple[Any, ...]
    groups: int
    tokens: int  # of an own group
    longest: int  # positions in the longest list, or more
    weighted: bool = False


class Launch(NamedTuple):
    kernel: Any
    programs: int
    arguments: dict[str, Any]
    tile: Tile

    def run(self) -> None:
        if self.programs:
            self.kernel[(self.programs,)](**self.arguments, **self.options())

    def options(self) -> dict[str, Any]:
        """Those of the compiler."""
        _, _, num_warps, num_stages, max_registers = self.tile
        return dict(num_warps=num_warps, num_stages=num_stages, maxnreg=max_registers)


def forward_launch(
    q: Tensor, k: Tensor, v: Tensor, address: Address, scale: float, out: Tensor, lse: Tensor, target: Target
) -> Launch:
    """Fills out (B, H, Nq, Dv), any strides, and lse (B, H, Nq) float32; every query is in a group."""
    tile = choose_tile("forward", q, v, target, address.tokens, address.longest)
    shared = _shared_arguments(q, k, v, address, scale, tile.own, target, out)
    blocks = dict(BLOCK_Q=tile.own, BLOCK_K=tile.listed)
    arguments = dict(out_ptr=out, lse_ptr=lse, out_strides=out.stride(), **blocks, **shared)
    return Launch(forward_kernel, _programs(q, address, tile), arguments, tile)


def backward_queries_launch(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    address: Address,
    scale: float,
    delta: Tensor,
    grad_q: Tensor,
    target: Target,
) -> Launch:
    """Fills delta (like lse) and grad_q.

    For a weighted address its argument grad_weight_ptr is filled too: the gradient of the weight at every position, one
    sum over each query tile, (B, H, groups, tiles of a group, longest) float32.
    """
    tile = choose_tile("backward_queries", q, v, target, address.tokens, address.longest)
    shared = _shared_arguments(q, k, v, address, scale, tile.own, target, grad_out, out)
    grad_weight = None
    if address.weighted:
        shape = (*q.shape[:2], address.groups, shared["tiles"], address.longest)
        grad_weight = torch.zeros(shape, dtype=torch.float32, device=q.device)
    arguments = dict(
        grad_out_ptr=grad_out,
        out_ptr=out,
        lse_ptr=lse,
        delta_ptr=delta,
        grad_q_ptr=grad_q,
        grad_weight_ptr=grad_weight,
        grad_out_strides=grad_out.stride(),
        out_strides=out.stride(),
        grad_q_strides=grad_q.stride(),
        longest=address.longest,
        BLOCK_Q=tile.own,
        BLOCK_K=tile.listed,
        **shared,
    )
    return Launch(backward_queries_kernel, _programs(q, address, tile), arguments, tile)


def backward_keys_launch(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    delta: Tensor,
    inverted: Address,
    scale: float,
    grad_k: Tensor,
    grad_v: Tensor,
    target: Target,
) -> Launch:
    """Fills grad_k and grad_v, after `backward_queries_launch` has filled delta; every key is in a group."""
    tile = choose_tile("backward_keys", q, v, target, inverted.tokens, inverted.longest)
    arguments = dict(
        grad_out_ptr=grad_out,
        lse_ptr=lse,
        delta_ptr=delta,
        grad_k_ptr=grad_k,
        grad_v_ptr=grad_v,
        grad_out_strides=grad_out.stride(),
        grad_k_strides=grad_k.stride(),
        grad_v_strides=grad_v.stride(),
        BLOCK_Q=tile.listed,
        BLOCK_K=tile.own,
        **_shared_arguments(q, k, v, inverted, scale, tile.own, target, grad_out),
    )
    return Launch(backward_keys_kernel, _programs(q, inverted, tile), arguments, tile)


def attention_forward(q: Tensor, k: Tensor, v: Tensor, address: Address, scale: float, out: Tensor) -> Tensor:
    """Fill out; returns the log-sum-exp."""
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):
        forward_launch(q, k, v, address, scale, out, lse, Target.of(q)).run()
    return lse


def attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    address: Address,
    inverted: Address,
    scale: float,
    grads: tuple[Tensor, Tensor, Tensor],
) -> Tensor | None:
    """Fill the gradients of q, k and v; returns that of the weights (see `backward_queries_launch`), or None."""
    target, delta = Target.of(q), torch.empty_like(lse)
    launch = backward_queries_launch(grad_out, q, k, v, out, lse, address, scale, delta, grads[0], target)
    with torch.cuda.device_of(q):
        launch.run()
        backward_keys_launch(grad_out, q, k, v, lse, delta, inverted, scale, grads[1], grads[2], target).run()
    return launch.arguments["grad_weight_ptr"]


def _shared_arguments(
    q: Tensor, k: Tensor, v: Tensor, address: Address, scale: float, block: int, target: Target, *others: Tensor
) -> dict[str, Any]:
    return dict(
        q_ptr=q,
        k_ptr=k,
        v_ptr=v,
        q_strides=q.stride(),
        k_strides=k.stride(),
        v_strides=v.stride(),
        operands=address.operands,
        heads=q.shape[1],
        groups=address.groups,
        tiles=triton.cdiv(address.tokens, block),
        num_q=q.shape[2],
        width=q.shape[3],
        value_width=v.shape[3],
        scale=scale,
        OWN=address.own,
        LENGTH=address.length,
        LISTED=address.listed,
        WEIGHTED=address.weighted,
        BLOCK_D=padded(q.shape[3]),
        BLOCK_V=padded(v.shape[3]),
        PRECISION=target.precision,
        WIDE=any(_spans_2_31(x) for x in (q, k, v, *others)),
    )


def _programs(q: Tensor, address: Address, tile: Tile) -> int:
    return q.shape[0] * q.shape[1] * address.groups * triton.cdiv(address.tokens, tile.own)


def padded(width: int) -> int:
    """What a head width takes inside a kernel."""
    return max(16, triton.next_power_of_2(width))


def _spans_2_31(x: Tensor) -> bool:
    """Whether one head's elements, those past its ends in a tile too, lie too far apart for 32-bit offsets."""
    extents = zip(x.shape[2:], x.stride()[2:], (256, 256), strict=True)
    return sum((extent + padding) * abs(stride) for extent, stride, padding in extents) >= 2**31
