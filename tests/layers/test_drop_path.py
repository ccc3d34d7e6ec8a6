import pytest
import torch

from visionsparse.layers import DropPath


def test_whole_samples_are_dropped_and_the_others_scaled() -> None:
    torch.manual_seed(0)
    x = torch.ones(64, 3, 5)

    per_sample = DropPath(0.25)(x).flatten(1)

    assert (per_sample == per_sample[:, :1]).all()
    assert sorted(set(per_sample[:, 0].tolist())) == pytest.approx([0.0, 1.0 / 0.75])


def test_the_mean_is_kept() -> None:
    torch.manual_seed(0)

    assert DropPath(0.3)(torch.ones(20_000, 1)).mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("layer", [DropPath(0.5).eval(), DropPath(0.0).train()])
def test_nothing_is_dropped_in_eval_or_at_rate_zero(layer: DropPath) -> None:
    x = torch.randn(8, 4)

    assert layer(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= rate < 1"):
        DropPath(rate)
