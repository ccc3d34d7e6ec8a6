"""What a net has to compute for an image: multiply-adds, as they are and as they would be with nothing skipped.

Convolutions, linear layers, matrix products and attention are counted by torch's FlopCounterMode (2 FLOPs a
multiply-add); what runs inside a sparse op counts as what the op was asked for (visionsparse/ops/work.py), so that the
figure is the net's and not the backend's. Published GMACs are mostly fvcore's, which counts the normalisations too (2
an element in batch norm, 5 in layer norm): of BiFormer that is 0.3 to 0.6 %.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visionsparse.ops.dispatch import watch_calls
from visionsparse.ops.work import Work, work_of


@torch.no_grad()
def count_work(model: nn.Module, images: Tensor) -> Work:
    """Multiply-adds of one forward pass. The pass is run, because sparsity may depend on the images.

    Args:
        model: takes `images`; in eval mode, if its sparsity differs there.
        images: (B, channels, height, width); the figures are for all B together.

    Returns: `done`, and `dense`: with every sparse op in its dense form.
    """
    flops = FlopCounterMode(display=False)
    calls: list[Work] = []
    inside_flops, is_inside = 0, False

    @contextlib.contextmanager
    def around(op: str, arguments: dict[str, Any]) -> Iterator[None]:
        nonlocal inside_flops, is_inside
        if is_inside:  # an op made of others counts as a whole
            yield
            return
        before, is_inside = flops.get_total_flops(), True
        try:
            yield
        finally:
            is_inside = False
        inside_flops += flops.get_total_flops() - before
        calls.append(work_of(op, arguments))

    with _countable_attention(), flops, watch_calls(around):
        model(images)
    outside = (flops.get_total_flops() - inside_flops) // 2
    return Work(done=outside + sum(call.done for call in calls), dense=outside + sum(call.dense for call in calls))


@contextlib.contextmanager
def _countable_attention() -> Iterator[None]:
    """Attention as matrix products: the counter knows neither CPUs' fused attention nor nn.MultiheadAttention's."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def count_parameters(model: nn.Module) -> int:
    """Parameters, learnt or frozen, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
