from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.engine.tiny import TinyNet
from visionsparse.engine.optim import AmpOptimWrapper, NoDecayConstructor
from visionsparse.errors import ConfigError
from visionsparse.tasks import ImageClassifier


def test_only_kernels_and_matrices_decay():
    model = ImageClassifier(TinyNet())
    wrapper = NoDecayConstructor(dict(optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.3)))(model)

    name_of = {parameter: name for name, parameter in model.named_parameters()}
    decays = {name_of[p]: group["weight_decay"] for group in wrapper.optimizer.param_groups for p in group["params"]}

    assert decays == {
        "backbone.stem.weight": 0.3,
        "backbone.head.weight": 0.3,
        "backbone.stem.bias": 0.0,
        "backbone.head.bias": 0.0,
        "backbone.norm.weight": 0.0,
        "backbone.norm.bias": 0.0,
        "backbone.scale": 0.0,  # two dimensions, but named by no_weight_decay()
    }


def test_frozen_parameters_are_not_given_to_the_optimiser():
    model = TinyNet()
    model.stem.requires_grad_(False)
    wrapper = NoDecayConstructor(dict(optimizer=dict(type="SGD", lr=0.1)))(model)

    given = {parameter for group in wrapper.optimizer.param_groups for parameter in group["params"]}

    assert given == {parameter for parameter in model.parameters() if parameter.requires_grad}


def test_rules_it_does_not_know_are_refused():
    with pytest.raises(ConfigError, match="paramwise_cfg"):
        NoDecayConstructor({}, dict(norm_decay_mult=0))


def test_bf16_computes_in_bf16_and_steps_in_fp32():
    layer = nn.Linear(4, 4)
    wrapper = AmpOptimWrapper("bfloat16", optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
    before = layer.weight.detach().clone()

    with wrapper.optim_context(layer):
        output = layer(torch.ones(2, 4))
    wrapper.update_params(output.float().sum())

    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(layer.weight, before - 0.1 * 2, rtol=0, atol=1e-6)


def test_the_state_of_mixed_precision_can_be_loaded_without_it_and_back():
    layer = nn.Linear(4, 4)
    wrapper = AmpOptimWrapper("bfloat16", optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))
    state = wrapper.state_dict()

    wrapper.load_state_dict(state)
    wrapper.load_state_dict({key: value for key, value in state.items() if key != "loss_scaler"})

    assert wrapper.state_dict().keys() == state.keys()


def test_fp16_on_a_cpu_is_refused():
    layer = nn.Linear(4, 4)
    wrapper = AmpOptimWrapper("float16", optimizer=torch.optim.SGD(layer.parameters(), lr=0.1))

    with pytest.raises(ConfigError, match="Use --amp bf16"), wrapper.optim_context(layer):
        pass
