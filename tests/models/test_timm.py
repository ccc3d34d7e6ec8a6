"""What timm expects of its own models, of every classification model of the zoo, built through timm.

After timm's tests/test_models.py (what it asks, not its code).
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import visionsparse as vs
from tests.models.named import named, smallest_images


@pytest.fixture(scope="module", params=named(quick_up_to=40e6, task="classification"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(name: str) -> nn.Module:
    """In eval mode; a test that changes it takes a copy."""
    torch.manual_seed(0)
    return timm.create_model(name).eval()


@pytest.fixture(scope="module")
def images(name: str) -> Tensor:
    return smallest_images(name)


def test_timm_knows_it(name):
    assert timm.is_model(name)
    assert name in timm.list_models(f"{name}*")


@torch.no_grad()
def test_head_and_features_make_up_the_forward_pass(net, images):
    features = net.forward_features(images)
    pooled = net.forward_head(features, pre_logits=True)

    assert features.shape[1] == net.num_features
    assert pooled.shape == (2, net.head_hidden_size)
    assert net.forward_head(features).equal(net(images))
    assert net.get_classifier()(pooled).equal(net(images))
    assert net(images).shape == (2, net.num_classes)


@torch.no_grad()
def test_the_classifier_can_be_reset_removed_and_the_pooling_too(net, images):
    net = copy.deepcopy(net)

    net.reset_classifier(7)
    assert net(images).shape == (2, 7) and net.num_classes == 7
    net.reset_classifier(0)
    assert net(images).shape == (2, net.num_features)
    net.reset_classifier(0, "")
    assert net(images).shape == net.forward_features(images).shape
    net.reset_classifier(5, "avg")
    assert net(images).shape == (2, 5)


@torch.no_grad()
def test_it_is_created_without_a_head_and_without_a_pool(name, images):
    pooled = timm.create_model(name, num_classes=0).eval()(images)
    features = timm.create_model(name, num_classes=0, global_pool="").eval()(images)

    assert pooled.ndim == 2 and features.ndim == 4
    assert pooled.shape[1] == features.shape[1]


def test_it_takes_what_timms_scripts_pass(name, images):
    net = timm.create_model(name, in_chans=1, num_classes=3, drop_rate=0.1, drop_path_rate=0.1)

    assert net(images[:, :1]).shape == (2, 3)


def test_its_default_config_names_layers_that_are_there(net, name):
    state, facts = net.state_dict(), vs.zoo.variant(name).facts
    for config in (net.default_cfg, net.pretrained_cfg):
        assert {
            "num_classes",
            "input_size",
            "mean",
            "std",
            "interpolation",
            "crop_pct",
            "architecture",
        } <= config.keys()
        assert f"{config['classifier']}.weight" in state
        assert state[f"{config['first_conv']}.weight"].shape[1] == config["input_size"][0]
        assert state[f"{config['classifier']}.weight"].shape[0] == config["num_classes"] == net.num_classes
    data = timm.data.resolve_model_data_config(net)
    assert list(data["input_size"]) == facts["input_size"]
    assert data["crop_pct"] == facts["timm"]["crop_pct"]


@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "coarse"])
def test_layer_groups_hold_every_parameter_and_follow_the_forward_pass(net, images, coarse):
    net = copy.deepcopy(net)
    layers = group_parameters(net, net.group_matcher(coarse), reverse=True)
    assert layers.keys() == {name for name, _ in net.named_parameters()}

    order = []
    for name, module in net.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda _, inputs, name=name: order.append(name))
    net(images)
    met = [
        layers[f"{name}.{key}"] for name in order for key, _ in net.get_submodule(name).named_parameters(recurse=False)
    ]
    assert met == sorted(met)
    assert sorted(set(met)) == list(range(len(set(met))))


def test_layer_decay_makes_later_layers_learn_faster(net):
    optimizer = create_optimizer_v2(net, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)

    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    layers = group_parameters(net, net.group_matcher(), reverse=True)
    assert groups.keys() == layers.keys()
    for name, group in groups.items():
        assert group["lr_scale"] == pytest.approx(0.75 ** (max(layers.values()) - layers[name]))
        assert (group["weight_decay"] == 0) == (net.get_parameter(name).ndim <= 1)


def test_no_weight_decay_names_parameters_that_are_there(net):
    assert set(net.no_weight_decay()) <= {name for name, _ in net.named_parameters()}


def test_checkpointing_keeps_less_and_changes_neither_outputs_nor_gradients(net, images):
    def train(is_checkpointing: bool) -> tuple[int, list[Tensor]]:
        """Bytes that are kept for the backward pass, and the outputs and gradients."""
        twin = copy.deepcopy(net).train()
        twin.set_grad_checkpointing(is_checkpointing)
        weights = {parameter.untyped_storage().data_ptr() for parameter in twin.parameters()}
        kept = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = twin(images)
        num_bytes = sum(kept.values())
        out.square().mean().backward()
        return num_bytes, [out, *(parameter.grad for parameter in twin.parameters())]

    usual, expected = train(is_checkpointing=False)
    fewer, found = train(is_checkpointing=True)

    assert fewer < 0.5 * usual
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_intermediates_follow_feature_info_with_and_without_checkpointing(net, images):
    described = timm.models.FeatureInfo(net.feature_info, tuple(range(len(net.feature_info))))

    last, maps = net.forward_intermediates(images, output_fmt="NCHW")

    assert [out.shape[1] for out in maps] == described.channels()
    assert last.equal(net.forward_features(images))
    twin = copy.deepcopy(net)
    twin.set_grad_checkpointing()
    torch.testing.assert_close(twin.forward_intermediates(images)[0], last)


@pytest.mark.parametrize("out_indices", [(0,), (0, 1), (-1,)], ids=str)
@torch.no_grad()
def test_features_only_gives_the_chosen_maps(name, net, images, out_indices):
    extractor = timm.create_model(name, features_only=True, out_indices=out_indices).eval()
    extractor.model.load_state_dict(net.state_dict())

    maps = extractor(images)

    chosen = [net.feature_info[index] for index in out_indices]
    assert extractor.feature_info.channels() == [info["num_chs"] for info in chosen]
    assert extractor.feature_info.reduction() == [info["reduction"] for info in chosen]
    for found, expected in zip(maps, net.forward_intermediates(images, indices=out_indices)[1], strict=True):
        assert found.equal(expected)
