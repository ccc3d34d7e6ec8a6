"""Attention inside a chunk of tiles, forward and backward, in one of two ways with one contract.

    p = softmax(scale * q K^T),  out = p V,  lse = log-sum-exp of the scores
    dV = p^T dO,  dP = dO V^T,  dS = p * (dP - rowsum(dO * O)),  dq = scale * dS K,  dK = scale * dS^T q

q, out: (R, H, Tq, channels); keys, values: (R, H, K, channels); live: (R, K) bool, the keys that take part, or None for
all; lse: (R, H, Tq). Every tile has a live key. float32 or float64.

`Fused` is torch's own fused CPU attention, the one under scaled_dot_product_attention: it computes in pieces that stay
in the L1 and L2 cache, so that no score is written to memory, however long the lists are. It takes keys and values of
one width. Where oneDNN's products are faster than those inside it, they give the forward pass: see onednn_attention.py.
`Products` is for everything else: other devices and widths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visionsparse.ops.onednn_attention import onednn_attention, pays

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def choose(q: Tensor, v: Tensor) -> type[Fused] | type[Products]:
    return Fused if q.device.type == "cpu" and q.shape[-1] == v.shape[-1] else Products


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The forward pass over all keys from those over parts of them.

    lse = log(sum(exp(lse_i))), out = sum(exp(lse_i - lse) * out_i). In the backward pass each part takes out and lse of
    all keys, and dq is the sum of its parts.
    """
    if len(parts) == 1:
        return parts[0]
    outs, lses = (torch.stack(results) for results in zip(*parts, strict=True))
    lse = lses.logsumexp(0)
    return (outs * (lses - lse).exp()[..., None]).sum(0), lse


class Fused:
    in_pieces = True  # see joined

    @staticmethod
    def forward(q: Tensor, keys: Tensor, values: Tensor, live: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        if pays(q, keys):
            return onednn_attention(q, keys, values, live, scale)
        return _flash(q, keys, values, 0.0, False, attn_mask=_bias(live, q), scale=scale)

    @staticmethod
    def backward(
        grad_out: Tensor,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        lse: Tensor,
        live: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _flash_backward(grad_out, q, keys, values, out, lse, 0.0, False, attn_mask=_bias(live, q), scale=scale)


class Products:
    in_pieces = False  # its backward pass takes softmax and rowsum over all keys

    @staticmethod
    def forward(q: Tensor, keys: Tensor, values: Tensor, live: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        scores = _scores(q, keys, live, scale)
        return torch.softmax(scores, -1) @ values, scores.logsumexp(-1)

    @staticmethod
    def backward(
        grad_out: Tensor,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        lse: Tensor,
        live: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # All keys are here, so p and rowsum(p * dP) are taken again: closer than by way of lse and out, and no slower.
        p = torch.softmax(_scores(q, keys, live, scale), -1)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_out @ values.mT, p, -1, p.dtype).mul_(scale)
        return grad_scores @ keys, grad_scores.mT @ q, p.mT @ grad_out


def _bias(live: Tensor | None, q: Tensor) -> Tensor | None:
    """What is added to the scores, (R, 1, 1, K): 0, or -inf where a key takes no part."""
    if live is None:
        return None
    return q.new_zeros(live.shape).masked_fill_(~live, float("-inf"))[:, None, None]


def _scores(q: Tensor, keys: Tensor, live: Tensor | None, scale: float) -> Tensor:
    scores = (q @ keys.mT).mul_(scale)
    return scores if live is None else scores.masked_fill_(~live[:, None, None], float("-inf"))
