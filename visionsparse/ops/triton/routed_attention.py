"""Routed attention on a GPU: keys and values are read where they lie in the map, and never gathered.

A query tile is (part of) a region; position p of its list is token p % Tkv of the region routes[r, p // Tkv]. The
inverted list of a key region holds the entries of the route table that name it, found by a stable sort.
"""

# What a jit function takes has no Python type:
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionsparse.ops.regions import region_grid
from visionsparse.ops.triton.launch import Address, attention_backward, attention_forward

Size = tuple[int, int]

_library = torch.library.Library("visionsparse", "FRAGMENT")
_library.define(
    "routed_flash(Tensor q, Tensor k, Tensor v, Tensor routes, Tensor? weights, SymInt[] region_size,"
    " SymInt[] kv_region_size, float scale) -> (Tensor, Tensor)"
)
_library.define(
    "routed_flash_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor routes, Tensor? weights, Tensor out,"
    " Tensor lse, SymInt[] region_size, SymInt[] kv_region_size, float scale) -> (Tensor, Tensor, Tensor, Tensor)"
)


def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    route_weights: Tensor | None,
    region_size: Size,
    kv_region_size: Size,
    scale: float,
) -> Tensor:
    """Arguments and result of ops.routed_attention; float16, bfloat16, float32; widths up to 256."""
    weights = None if route_weights is None else route_weights.float()
    out, _ = torch.ops.visionsparse.routed_flash(q, k, v, routes, weights, region_size, kv_region_size, scale)
    return out


@triton.jit
def _map_row(region, token, geometry):
    """Row of a region's token in the map, and whether it is on the map."""
    height, width, region_height, region_width, columns = geometry
    y = (region // columns) * region_height + token // region_width
    x = (region % columns) * region_width + token % region_width
    return y * width + x, (y < height) & (x < width)


@triton.jit
def _own(image, head, region, lanes, operands):
    geometry, _, _ = operands
    row, on_map = _map_row(region, lanes, geometry)
    readable = on_map & (lanes < geometry[2] * geometry[3])
    return row, readable, readable


@triton.jit
def _routes_length(image, head, region, operands):
    _, geometry, routes = operands
    return routes[2] * geometry[2] * geometry[3]


@triton.jit
def _routed(image, head, region, start, lanes, operands):
    _, geometry, routes = operands
    routes_ptr, weights_ptr, topk, stride_b, stride_h = routes
    tokens = geometry[2] * geometry[3]
    positions = start + lanes
    counts = positions < topk * tokens
    first = image.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h + region * topk
    listed = tl.load(routes_ptr + first + positions // tokens, mask=counts, other=0)
    row, on_map = _map_row(listed, positions % tokens, geometry)
    weight = 1.0
    if weights_ptr is not None:
        weight = tl.load(weights_ptr + first + positions // tokens, mask=counts, other=0.0)
    return row, on_map & counts, counts, weight


@triton.jit
def _entries_length(image, head, region, operands):
    _, geometry, entries = operands
    starts_ptr = entries[2] + image.to(tl.int64) * entries[4] + head.to(tl.int64) * entries[5] + region
    return (tl.load(starts_ptr + 1) - tl.load(starts_ptr)) * geometry[2] * geometry[3]


@triton.jit
def _routing(image, head, region, start, lanes, operands):
    """The queries of the regions that name this key region."""
    _, geometry, entries = operands
    order_ptr, weights_ptr, starts_ptr, topk, starts_stride_b, starts_stride_h, stride_b, stride_h = entries
    starts_ptr += image.to(tl.int64) * starts_stride_b + head.to(tl.int64) * starts_stride_h + region
    first_place = tl.load(starts_ptr)
    tokens = geometry[2] * geometry[3]
    positions = start + lanes
    in_list = positions < (tl.load(starts_ptr + 1) - first_place) * tokens
    first = image.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h
    entry = tl.load(order_ptr + first + first_place + positions // tokens, mask=in_list, other=0)
    row, on_map = _map_row(entry // topk, positions % tokens, geometry)
    weight = 1.0
    if weights_ptr is not None:
        weight = tl.load(weights_ptr + first + entry, mask=in_list, other=0.0)
    readable = on_map & in_list
    return row, readable, readable, weight


def addresses(
    q: Tensor, k: Tensor, routes: Tensor, weights: Tensor | None, region_size: Size, kv_region_size: Size
) -> Address:
    """Of the queries, for maps (B, H, height, width, D) and contiguous int32 routes and float32 weights."""
    geometry, kv_geometry = _geometry(q, region_size), _geometry(k, kv_region_size)
    topk, tokens = routes.shape[3], kv_region_size[0] * kv_region_size[1]
    table = (routes, weights, topk, routes.stride(0), _head_stride(routes))
    return Address(
        _own,
        _routes_length,
        _routed,
        (geometry, kv_geometry, table),
        groups=routes.shape[2],
        tokens=region_size[0] * region_size[1],
        longest=topk * tokens,
        weighted=weights is not None,
    )


def inverted_addresses(
    q: Tensor, k: Tensor, routes: Tensor, weights: Tensor | None, region_size: Size, kv_region_size: Size
) -> Address:
    """Of the keys: like `addresses`."""
    geometry, kv_geometry = _geometry(q, region_size), _geometry(k, kv_region_size)
    kv_rows, kv_columns = region_grid(k.shape[2], k.shape[3], kv_region_size)
    order, starts = invert(routes.flatten(2), kv_rows * kv_columns)
    strides = (starts.stride(0), _head_stride(starts), order.stride(0), _head_stride(order))
    return Address(
        _own,
        _entries_length,
        _routing,
        (kv_geometry, geometry, (order, weights, starts, routes.shape[3], *strides)),
        groups=kv_rows * kv_columns,
        tokens=kv_region_size[0] * kv_region_size[1],
        longest=order.shape[2] * region_size[0] * region_size[1],
        weighted=weights is not None,
    )


def invert(listed: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """(B, H, entries) group numbers -> order (B, H, entries) of the entries by group, starts (B, H, groups + 1); int32.

    The entries that name group g are order[starts[g]:starts[g + 1]], in rising order.
    """
    by_group, order = torch.sort(listed, dim=-1, stable=True)
    edges = torch.arange(groups + 1, dtype=listed.dtype, device=listed.device).expand(*listed.shape[:2], -1)
    starts = torch.searchsorted(by_group, edges.contiguous(), out_int32=True)
    return order.int(), starts


def _geometry(x: Tensor, region_size: Size) -> tuple[int, ...]:
    height, width = x.shape[2:4]
    return height, width, *region_size, region_grid(height, width, region_size)[1]


def _head_stride(x: Tensor) -> int:
    return x.stride(1) if x.shape[1] > 1 else 0


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    weights: Tensor | None,
    region_size: Size,
    kv_region_size: Size,
    scale: float,
) -> tuple[Tensor, Tensor]:
    out = _empty_map(q, v.shape[4])
    rows, columns = region_grid(k.shape[2], k.shape[3], kv_region_size)
    # On a GPU without waiting for it: there the kernels do not run, and the error comes at a later call.
    torch._assert_async(((routes >= 0) & (routes < rows * columns)).all(), "routes: a region number is out of range")
    routes, weights = _tables(routes, weights)
    address = addresses(q, k, routes, weights, region_size, kv_region_size)
    return out, attention_forward(_rows(q), _rows(k), _rows(v), address, scale, _rows(out))


def _backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    weights: Tensor | None,
    out: Tensor,
    lse: Tensor,
    region_size: Size,
    kv_region_size: Size,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = _empty_map(q, q.shape[4]), _empty_map(k, k.shape[4]), _empty_map(v, v.shape[4])
    routes, weights = _tables(routes, weights)
    grad_weight = attention_backward(
        _rows(grad_out),
        _rows(q),
        _rows(k),
        _rows(v),
        _rows(out),
        lse,
        addresses(q, k, routes, weights, region_size, kv_region_size),
        inverted_addresses(q, k, routes, weights, region_size, kv_region_size),
        scale,
        (_rows(grad_q), _rows(grad_k), _rows(grad_v)),
    )
    if weights is None or grad_weight is None:
        return grad_q, grad_k, grad_v, q.new_empty(0, dtype=torch.float32)
    by_route = grad_weight.unflatten(-1, (routes.shape[3], -1)).sum((3, -1))  # (B, H, regions, topk)
    return grad_q, grad_k, grad_v, by_route if weights.shape[1] > 1 else by_route.sum(1, keepdim=True)


def _rows(x: Tensor) -> Tensor:
    """(B, H, height * width, D), a view where the map's rows follow each other in memory, else a copy."""
    return x.flatten(2, 3)


def _tables(routes: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """As the kernels read them."""
    return routes.int().contiguous(), None if weights is None else weights.contiguous()


def _empty_map(x: Tensor, channels: int) -> Tensor:
    """(B, H, height, width, channels), in memory as (B, height, width, H, channels), so that joining heads is free."""
    batch, heads, height, width, _ = x.shape
    return x.new_empty(batch, height, width, heads, channels).permute(0, 3, 1, 2, 4)


def _forward_shapes(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty_map(q, v.shape[4]), q.new_empty(*q.shape[:2], q.shape[2] * q.shape[3], dtype=torch.float32)


def _backward_shapes(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, routes: Tensor, weights: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_weights = q.new_empty(0 if weights is None else weights.shape, dtype=torch.float32)
    return _empty_map(q, q.shape[4]), _empty_map(k, k.shape[4]), _empty_map(v, v.shape[4]), grad_weights


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.region_size, ctx.kv_region_size, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # read once: activation checkpointing refuses a second time
    sizes = (ctx.region_size, ctx.kv_region_size, ctx.scale)
    *grads, grad_weights = torch.ops.visionsparse.routed_flash_backward(grad_out, *saved, *sizes)
    return *grads, None, None if saved[4] is None else grad_weights, None, None, None


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "Attention has no second derivative on the triton backend: call it under ops.use_backend('reference')."
    )


_library.impl("routed_flash", _forward, "CompositeExplicitAutograd")
_library.impl("routed_flash_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("visionsparse::routed_flash", _forward_shapes, lib=_library)
torch.library.register_fake("visionsparse::routed_flash_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("visionsparse::routed_flash", _differentiate, setup_context=_save, lib=_library)
torch.library.register_autograd("visionsparse::routed_flash_backward", _refuse_second_derivative, lib=_library)
