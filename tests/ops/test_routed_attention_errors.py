"""Tests of routed attention's preconditions: what was got, what was expected, what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from tests.ops.routed_inputs import make_inputs
from visionsparse import ops
from visionsparse.errors import InputError

# q (2, 2, 4, 6, 4), k (2, 2, 4, 6, 4), v (2, 2, 4, 6, 3), routes (2, 1, 4, 2), region_size (2, 3)
WRONG: list[tuple[dict[str, Any], str]] = [
    (dict(q=torch.zeros(2, 4, 6, 4)), "q has 4 dimensions (2, 4, 6, 4): give (B, H, height, width, D)."),
    (dict(q=torch.zeros(2, 2, 4, 6, 4, dtype=torch.int64)), "q is int64: give float16, bfloat16, float32 or float64."),
    (
        dict(k=torch.zeros(2, 3, 4, 6, 4)),
        "k has 2 images and 3 heads but q has 2 and 2: give k as (2, 2, height, width, channels).",
    ),
    (dict(k=torch.zeros(2, 2, 4, 6, 5)), "k has width 5 but q 4: give both the same width, at least 1."),
    (dict(k=torch.zeros(2, 2, 4, 6, 4).half()), "k is float16 but q float32: cast them to one dtype."),
    (dict(v=torch.zeros(2, 2, 4, 6, 3).double()), "v is float64 but q float32: cast them to one dtype."),
    (dict(v=torch.zeros(2, 2, 4, 6, 3, device="meta")), "v is on meta but q on cpu: move them to one device."),
    (dict(v=torch.zeros(2, 2, 6, 4, 3)), "v is a map of 6 x 4 but k of 4 x 6: give one value per key."),
    (dict(v=torch.zeros(2, 2, 4, 6, 0)), "v has width 0: give values of a width of at least 1."),
    (dict(region_size=2), "region_size is 2: give (height, width) of a region."),
    (dict(region_size=(2, 0)), "region_size is (2, 0): give a whole height and width of at least 1."),
    (dict(kv_region_size=(2.0, 3)), "kv_region_size is (2.0, 3): give a whole height and width of at least 1."),
    (dict(scale=-1.0), "scale is -1.0: give a finite number of at least 0, or None for D ** -0.5."),
    (dict(scale=float("nan")), "scale is nan: give a finite number of at least 0"),
    (dict(scale=float("inf")), "scale is inf: give a finite number of at least 0"),
    (dict(routes=torch.zeros(2, 1, 4, 2)), "routes is float32: give region numbers as int64 or int32."),
    (
        dict(routes=torch.zeros(2, 4, 2, dtype=torch.int64)),
        "routes has 3 dimensions (2, 4, 2): give (B, H or 1, regions, topk).",
    ),
    (
        dict(routes=torch.zeros(2, 1, 4, 2, dtype=torch.int64, device="meta")),
        "routes is on meta but q on cpu: move them to one device.",
    ),
    (
        dict(routes=torch.zeros(2, 3, 4, 2, dtype=torch.int64)),
        "routes is for 2 images and 3 heads but q has 2 and 2: give (2, 2 or 1, regions, topk).",
    ),
    (
        dict(routes=torch.zeros(2, 1, 5, 2, dtype=torch.int64)),
        "routes has 5 regions but q has 2 x 2 = 4 of region_size (2, 3): route every region.",
    ),
    (
        dict(routes=torch.zeros(2, 1, 4, 0, dtype=torch.int64)),
        "routes lists no key region (topk is 0): list at least one for every query region.",
    ),
    (
        dict(routes=torch.full((2, 1, 4, 2), 4)),
        "routes has region 4 but k has 2 x 2 = 4 regions of kv_region_size (2, 3): number them from 0 to 3, row by row",
    ),
    (
        dict(routes=torch.full((2, 1, 4, 2), -1), kv_region_size=(4, 3)),
        "routes has region -1 but k has 1 x 2 = 2 regions of kv_region_size (4, 3): number them from 0 to 1",
    ),
    (
        dict(route_weights=torch.zeros(2, 2, 4, 2)),
        "route_weights is (2, 2, 4, 2) but routes (2, 1, 4, 2): give one weight a route.",
    ),
    (
        dict(route_weights=torch.zeros(2, 1, 4, 2, dtype=torch.int32)),
        "route_weights is int32: give a floating dtype.",
    ),
    (
        dict(route_weights=torch.zeros(2, 1, 4, 2, device="meta")),
        "route_weights is on meta but routes on cpu: move them to one device.",
    ),
]


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(("changed", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_argument_is_named_with_what_to_do(backend: str, changed: dict[str, Any], message: str) -> None:
    case = make_inputs()
    with ops.use_backend(backend), pytest.raises(InputError, match=re.escape(message)):
        case.call(**changed)


def test_a_list_may_be_longer_than_there_are_regions() -> None:
    case = make_inputs(topk=9)
    assert case.call().shape == (2, 2, 4, 6, 3)
