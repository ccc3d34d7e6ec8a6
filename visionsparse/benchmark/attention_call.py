"""One call of an attention, forward alone or with its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from visionsparse.benchmark.plan import Call

Function = Callable[..., Tensor]


def attention_call(function: Function, tensors: Sequence[Tensor], upstream: Tensor | None) -> Call:
    """Of `function(*tensors)`: without a graph, or with the gradient of every tensor for `upstream` (as the output)."""
    if upstream is None:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*tensors)

        return forward
    leaves = [x.detach().requires_grad_() for x in tensors]

    def forward_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*leaves), leaves, upstream)

    return forward_backward
