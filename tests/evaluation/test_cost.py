from __future__ import annotations

import pytest
import torch
from torch import nn

import visionsparse as vs
from visionsparse import ops
from visionsparse.evaluation.cost import count_parameters, count_work
from visionsparse.zoo import variants

PUBLISHED = [name for name, entry in variants().items() if entry.facts["published"]]


@pytest.mark.parametrize(("name", "gmacs"), [("tiny", 2.228), ("small", 4.487), ("base", 9.795)])
def test_gmacs_are_within_two_percent_of_the_published_ones(name, gmacs):
    work = count_work(vs.create_model(f"biformer_{name}").eval(), torch.randn(1, 3, 224, 224))

    assert work.done / 1e9 == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("name", PUBLISHED)
def test_with_the_normalisations_counted_as_fvcore_does_they_are_the_published_ones(name):
    net = vs.create_model(name).eval()
    operations = []
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            each = 2 if isinstance(module, nn.BatchNorm2d) else 5
            module.register_forward_hook(lambda _, inputs, out, each=each: operations.append(each * out.numel()))

    work = count_work(net, torch.randn(1, *variants()[name].facts["input_size"]))

    assert (work.done + sum(operations)) / 1e9 == pytest.approx(variants()[name].facts["gmacs"], rel=1e-3)


def test_convolutions_linear_layers_and_attention_are_counted():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(2), nn.Linear(36, 5, bias=False))
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()

    work = count_work(net, torch.randn(2, 3, 6, 6))
    of_attention = count_work(_SelfAttention(attention), torch.randn(2, 7, 8))

    assert work.done == work.dense == 2 * (36 * 8 * 27 + 8 * 36 * 5)
    assert of_attention.done == 2 * 7 * (4 * 8 * 8 + 2 * 7 * 8)


class _SelfAttention(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def test_it_does_not_depend_on_the_backend():
    net, images = vs.create_model("biformer_nano").eval(), torch.randn(1, 3, 32, 32)
    with ops.use_backend("reference"):
        reference = count_work(net, images)

    assert count_work(net, images) == reference
    assert reference.done < reference.dense


def test_a_net_that_reads_every_region_skips_nothing():
    net = vs.create_model("biformer_nano", topks=(16, -2)).eval()

    work = count_work(net, torch.randn(2, 3, 32, 32))

    assert work.done == work.dense


def test_tied_parameters_count_once():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight

    assert count_parameters(net) == 16
