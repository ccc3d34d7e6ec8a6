import torch

from visionsparse.layers import LayerNorm2d


def test_every_position_is_normalised_over_its_channels() -> None:
    x = torch.randn(2, 16, 3, 5) * 4 + 1

    out = LayerNorm2d(16)(x)

    assert out.shape == x.shape
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(2, 3, 5), atol=1e-4, rtol=0)


def test_weight_and_bias_are_per_channel() -> None:
    norm = LayerNorm2d(4)
    torch.nn.init.zeros_(norm.weight)
    norm.bias.data = torch.arange(4.0)

    assert (norm(torch.randn(1, 4, 2, 2)) == torch.arange(4.0).view(1, 4, 1, 1)).all()
