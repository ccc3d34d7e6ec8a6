"""Routed attention: a query region attends to the regions that its route lists.

    out[r] = softmax(scale * q[r] @ K[r].T) @ V[r],   K[r] = concat(w[r, j] * k[routes[r, j]] for j), V[r] likewise

per image and head; r runs over the regions of the query map, w = 1 unless `route_weights` are given.
Source: BiFormer (bi-level routing attention), arXiv 2303.08810, section 3.2.
Cost: Nq * topk * Tkv * (D + Dv) multiply-adds instead of Nq * Nkv * (D + Dv), Tkv tokens a key region.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visionsparse.errors import InputError
from visionsparse.ops.dispatch import backend, dispatch
from visionsparse.ops.inputs import FLOATS, autocast, can_look_at, check_qkv, check_scale, dtype_name, without_autocast
from visionsparse.ops.masked_routes import masked_routes, pays
from visionsparse.ops.regions import cut, from_regions, region_grid, to_regions, uncut
from visionsparse.ops.tiled_attention import tiled_attention
from visionsparse.ops.triton import why_not_attention, why_not_counts
from visionsparse.ops.work import Work, work

Size = tuple[int, int]


def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    *,
    region_size: Sequence[int],
    kv_region_size: Sequence[int] | None = None,
    route_weights: Tensor | None = None,
    scale: float | None = None,
    return_attention: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of every query region over its routed key regions.

    Maps are cut into regions row-major. A region that hangs over the right or bottom edge is filled with zero keys and
    values, which take part in the softmax (as published); the output is cropped to the query map.

    Args:
        q: (B, H, height, width, D) queries; float16, bfloat16 (both computed in float32), float32 or float64.
            Under autocast q, k and v are cast to its dtype. Any strides.
        k: (B, H, kv height, kv width, D) keys, dtype and device of q.
        v: (B, H, kv height, kv width, Dv) values, dtype and device of q.
        routes: (B, H or 1, regions, topk) int32 or int64: for each query region the key regions that it sees. A number
            may occur twice and then counts twice.
        region_size: (height, width) of a query region.
        kv_region_size: (height, width) of a key region; that of the query by default.
        route_weights: shape of routes, floating, differentiable: factors of the keys and values that a route reads.
        scale: of the scores, D ** -0.5 by default.
        return_attention: also give the attention, which is not differentiable.

    Returns: (B, H, height, width, Dv), dtype of q, in memory as (B, height, width, H, Dv), so that joining the heads is
    free; with return_attention also (B, H, regions, T, topk * Tkv), the softmax of each of the T tokens of a query
    region over the Tkv tokens of each listed region, in the order of the list.

    Raises: InputError where arguments don't fit together; says what was got, what was expected and what to do. Routes
    out of range get it on CPU tensors outside torch.compile only: elsewhere looking would wait for the device, and they
    end in an index error of the backend.
    """
    q, k, v = autocast(q, k, v)
    region_size = _check_size("region_size", region_size)
    kv_region_size = region_size if kv_region_size is None else _check_size("kv_region_size", kv_region_size)
    _check_maps(q, k, v)
    _check_routes(q, k, routes, route_weights, region_size, kv_region_size)
    scale = q.shape[-1] ** -0.5 if scale is None else check_scale(scale)
    with without_autocast(q.device.type):
        return dispatch(
            "routed_attention",
            q=q,
            k=k,
            v=v,
            routes=routes,
            region_size=region_size,
            kv_region_size=kv_region_size,
            route_weights=route_weights,
            scale=scale,
            return_attention=return_attention,
        )


@work("routed_attention")
def _work(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, kv_region_size: Size, **_: object) -> Work:
    queries, a_pair = q[..., 0].numel(), q.shape[-1] + v.shape[-1]
    listed = routes.shape[-1] * kv_region_size[0] * kv_region_size[1]
    return Work(done=queries * listed * a_pair, dense=queries * k.shape[2] * k.shape[3] * a_pair)


@backend("routed_attention", "reference")
def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    region_size: Size,
    kv_region_size: Size,
    route_weights: Tensor | None,
    scale: float,
    return_attention: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """The formula, with every listed key and value gathered."""
    height, width = q.shape[2:4]
    dtype = torch.promote_types(q.dtype, torch.float32)
    route_weights = None if route_weights is None else route_weights.to(dtype)
    keys = _listed(to_regions(k, kv_region_size).to(dtype), routes, route_weights)
    values = _listed(to_regions(v, kv_region_size).to(dtype), routes, route_weights)
    attention = torch.softmax(scale * to_regions(q, region_size).to(dtype) @ keys.mT, dim=-1)
    out = from_regions((attention @ values).to(q.dtype), region_size, height, width)
    return (out, attention.detach().to(q.dtype)) if return_attention else out


def _listed(regions: Tensor, routes: Tensor, route_weights: Tensor | None) -> Tensor:
    """(B, H, kv regions, Tkv, D), (B, H or 1, regions, topk) -> (B, H, regions, topk * Tkv, D)."""
    batch, heads, kv_regions = regions.shape[:3]
    image = torch.arange(batch, device=routes.device).view(batch, 1, 1, 1)
    head = torch.arange(heads, device=routes.device).view(1, heads, 1, 1)
    listed = regions[image, head, _refusable(routes, kv_regions, kv_regions).long()]  # (B, H, regions, topk, Tkv, D)
    if route_weights is not None:
        listed = listed * route_weights[..., None, None]
    return listed.flatten(3, 4)


@backend("routed_attention", "torch")
def _torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    region_size: Size,
    kv_region_size: Size,
    route_weights: Tensor | None,
    scale: float,
    return_attention: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """Chunks of query regions whose gathered keys and values stay in the cache, see tiled_attention; on small maps
    dense attention under a mask, see masked_routes."""
    if route_weights is None and not return_attention and pays(q, k, v, routes, region_size, kv_region_size):
        return masked_routes(q, k, v, routes, region_size, kv_region_size, scale)
    lists = routes.shape[1]
    kv_rows, kv_columns = region_grid(k.shape[2], k.shape[3], kv_region_size)
    kv_regions, dtype = kv_rows * kv_columns, torch.promote_types(q.dtype, torch.float32)
    if route_weights is not None:
        route_weights = route_weights.to(dtype)
    out = tiled_attention(
        cut(q, region_size, lists),
        cut(k, kv_region_size, lists),
        cut(v, kv_region_size, lists),
        _refusable(routes, kv_regions, routes.shape[0] * lists * kv_regions).to(torch.int32),  # kept for backward
        route_weights,
        scale,
    )
    out = uncut(out, q.shape[2], q.shape[3])
    if not return_attention:
        return out
    with torch.no_grad():  # to look at, so not worth a chunked form: its result is as large as what it gathers
        keys = _listed(to_regions(k, kv_region_size).to(dtype), routes, route_weights)
        return out, torch.softmax(scale * to_regions(q, region_size).to(dtype) @ keys.mT, dim=-1).to(q.dtype)


def _why_not_triton(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, return_attention: bool, **_: object) -> str | None:
    if return_attention:
        return "its kernel never holds the attention that return_attention=True asks for."
    return why_not_attention(q, v) or why_not_counts(
        queries_of_a_head=q.shape[2] * q.shape[3],
        keys_of_a_head=k.shape[2] * k.shape[3],
        routes_of_a_head=routes.shape[2] * routes.shape[3],
    )


@backend("routed_attention", "triton", why_not=_why_not_triton)
def _triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routes: Tensor,
    region_size: Size,
    kv_region_size: Size,
    route_weights: Tensor | None,
    scale: float,
    return_attention: bool,
) -> Tensor:
    """Keys and values read where they lie in the map: see triton/attention.py."""
    from visionsparse.ops.triton import routed_attention as kernels

    return kernels.routed_attention(q, k, v, routes, route_weights, region_size, kv_region_size, scale)


def _refusable(routes: Tensor, kv_regions: int, past_the_end: int) -> Tensor:
    """Routes whose wrong numbers, where nobody could look, end in an index error and not in another head's region."""
    if can_look_at(routes):
        return routes
    return routes.masked_fill((routes < 0) | (routes >= kv_regions), past_the_end)


def _check_size(name: str, size: Sequence[int]) -> Size:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise InputError(f"{name} is {size!r}: give (height, width) of a region.")
    if any(isinstance(extent, float) or extent < 1 for extent in size):
        raise InputError(f"{name} is {tuple(size)}: give a whole height and width of at least 1.")
    return size[0], size[1]


def _check_maps(q: Tensor, k: Tensor, v: Tensor) -> None:
    check_qkv(q, k, v, ("height", "width"))
    if v.shape[2:4] != k.shape[2:4]:
        raise InputError(
            f"v is a map of {v.shape[2]} x {v.shape[3]} but k of {k.shape[2]} x {k.shape[3]}: give one value per key."
        )


def _check_routes(
    q: Tensor, k: Tensor, routes: Tensor, route_weights: Tensor | None, region_size: Size, kv_region_size: Size
) -> None:
    batch, heads = q.shape[:2]
    if routes.dtype not in (torch.int32, torch.int64):
        raise InputError(f"routes is {dtype_name(routes.dtype)}: give region numbers as int64 or int32.")
    if routes.dim() != 4:
        raise InputError(
            f"routes has {routes.dim()} dimensions {tuple(routes.shape)}: give (B, H or 1, regions, topk)."
        )
    if routes.device != q.device:
        raise InputError(f"routes is on {routes.device} but q on {q.device}: move them to one device.")
    if routes.shape[0] != batch or routes.shape[1] not in (1, heads):
        raise InputError(
            f"routes is for {routes.shape[0]} images and {routes.shape[1]} heads but q has {batch} and {heads}:"
            f" give ({batch}, {heads} or 1, regions, topk)."
        )
    rows, columns = region_grid(q.shape[2], q.shape[3], region_size)
    if routes.shape[2] != rows * columns:
        raise InputError(
            f"routes has {routes.shape[2]} regions but q has {rows} x {columns} = {rows * columns} of region_size"
            f" {region_size}: route every region."
        )
    if routes.shape[3] == 0:
        raise InputError("routes lists no key region (topk is 0): list at least one for every query region.")
    rows, columns = region_grid(k.shape[2], k.shape[3], kv_region_size)
    if can_look_at(routes) and routes.numel():
        low, high = (int(x) for x in routes.aminmax())
        if low < 0 or high >= rows * columns:
            raise InputError(
                f"routes has region {low if low < 0 else high} but k has {rows} x {columns} = {rows * columns} regions"
                f" of kv_region_size {kv_region_size}: number them from 0 to {rows * columns - 1}, row by row."
            )
    if route_weights is not None:
        _check_route_weights(route_weights, routes)


def _check_route_weights(route_weights: Tensor, routes: Tensor) -> None:
    if route_weights.shape != routes.shape:
        raise InputError(
            f"route_weights is {tuple(route_weights.shape)} but routes {tuple(routes.shape)}: give one weight a route."
        )
    if route_weights.dtype not in FLOATS:
        raise InputError(f"route_weights is {dtype_name(route_weights.dtype)}: give a floating dtype.")
    if route_weights.device != routes.device:
        raise InputError(
            f"route_weights is on {route_weights.device} but routes on {routes.device}: move them to one device."
        )
