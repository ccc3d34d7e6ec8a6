from __future__ import annotations

import pytest
import torch

from visionsparse.errors import ConfigError
from visionsparse.models.biformer.attention import ConvolutionStandIn, FullAttention


@pytest.mark.parametrize(("lepe_on", "lepe_kernel_size"), [("input", 0), ("value", 0), ("input", 3), ("value", 3)])
def test_full_attention_is_the_formula(lepe_on: str, lepe_kernel_size: int) -> None:
    attn = FullAttention(16, 4, lepe_kernel_size=lepe_kernel_size, lepe_on=lepe_on)
    x = torch.randn(2, 3, 5, 16)
    q, k, v = (part.view(2, 15, 4, 4).transpose(1, 2) for part in attn.qkv(x).chunk(3, dim=-1))
    expected = ((q @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
    if lepe_kernel_size:
        seen = x if lepe_on == "input" else attn.qkv(x).chunk(3, dim=-1)[2]
        expected = expected + attn.lepe(seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    torch.testing.assert_close(attn(x), attn.proj(expected))


def test_the_convolution_stand_in_keeps_the_shape() -> None:
    assert ConvolutionStandIn(8)(torch.randn(2, 3, 5, 8)).shape == (2, 3, 5, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "num_heads=3 does not divide dim=16"),
        ({"lepe_on": "v"}, "expected 'input' or 'value'"),
        ({"lepe_kernel_size": 4}, "a depthwise kernel of size 4: expected an odd number"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FullAttention(16, **arguments)
