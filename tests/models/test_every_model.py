"""What holds for every registered model: a new one is tested here from the moment its metafile names it.

Each model runs on the smallest input that it takes (`smallest_input` in its metafile). Where that takes long all the
same, the model is among the slow tests.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

import visionsparse as vs
from tests.golden.golden import fill
from tests.models.named import named, smallest_images
from visionsparse.checkpoint.layouts import publish
from visionsparse.errors import UserError
from visionsparse.zoo import Variant, variants


@pytest.fixture(scope="module", params=named(quick_up_to=40e6))  # of a module's scope: keeps a model's tests together
def entry(request: pytest.FixtureRequest) -> Variant:
    return variants()[request.param]


@pytest.fixture(scope="module")
def net(entry: Variant) -> nn.Module:
    """The model in eval mode; a test that changes it takes a copy."""
    torch.manual_seed(0)
    return vs.create_model(entry.name).eval()


@pytest.fixture(scope="module")
def images(entry: Variant) -> Tensor:
    """Two of the smallest images that the model takes."""
    return smallest_images(entry.name)


def outputs(found: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def is_side(size: int, images: Tensor, reduction: int) -> bool:
    """Whether a map of that size is `reduction` times smaller than the images; odd sizes may be rounded either way."""
    return size in (images.shape[-1] // reduction, -(-images.shape[-1] // reduction))


def assert_same(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.equal(other)


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].equal(tensor), name


def filled(shapes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Numbers by rule in place of every tensor, whole ones where it holds whole ones."""
    return {
        name: torch.from_numpy(fill(name, like.shape)).to(like.dtype)
        if like.is_floating_point()
        else torch.full_like(like, 7)
        for name, like in shapes.items()
    }


@torch.no_grad()
def test_it_gives_what_its_task_promises(entry, net, images):
    found = outputs(net(images))

    assert all(out.isfinite().all() for out in found)
    if entry.task == "classification":
        assert [tuple(out.shape) for out in found] == [(2, net.num_classes)]
    else:
        for out, info in zip(found, net.feature_info, strict=True):
            assert all(is_side(size, images, info["reduction"]) for size in out.shape[2:])


def test_every_parameter_gets_a_finite_gradient(net, images):
    net = copy.deepcopy(net).train()

    sum(out.square().mean() for out in outputs(net(images))).backward()

    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bf16", "fp64"])
@torch.no_grad()
def test_it_computes_in_other_dtypes(net, images, dtype):
    found = outputs(copy.deepcopy(net).to(dtype)(images.to(dtype)))

    assert all(out.dtype == dtype and out.isfinite().all() for out in found)
    if dtype == torch.float64:
        for out, expected in zip(found, outputs(net(images)), strict=True):
            torch.testing.assert_close(out.float(), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@torch.no_grad()
def test_an_image_alone_gets_what_it_gets_in_a_batch(net, images):
    alone = outputs(net(images[:1]))

    for out, both in zip(alone, outputs(net(images)), strict=True):
        torch.testing.assert_close(out, both[:1], rtol=1e-3, atol=1e-3 * float(both.std()))


@pytest.mark.parametrize("less", [(1, 0), (0, 1), (3, 5)], ids=str)
@torch.no_grad()
def test_an_odd_size_works_or_is_refused_with_a_reason(net, images, less):
    images = images[..., : images.shape[-2] - less[0], : images.shape[-1] - less[1]]
    try:
        found = outputs(net(images))
    except UserError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert all(out.isfinite().all() for out in found)
    assert not refusal or re.search(r"\d+ x \d+.*: ", refusal)  # the size that does not fit, and what to do


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@torch.no_grad()
def test_saved_weights_load_into_a_fresh_model(entry, net, suffix, tmp_path):
    vs.checkpoint.save_checkpoint(net.state_dict(), tmp_path / f"net.{suffix}")
    fresh = vs.create_model(entry.name).eval()

    report = vs.load_checkpoint(fresh, tmp_path / f"net.{suffix}")

    assert not report.missing and not report.unexpected
    assert_same_state(fresh.state_dict(), net.state_dict())


@torch.no_grad()
def test_its_features_are_as_it_describes_them(net, images):
    assert [info["reduction"] for info in net.feature_info] == sorted(info["reduction"] for info in net.feature_info)

    last, maps = net.forward_intermediates(images)

    assert last.equal(net.forward_features(images))
    for found, info in zip(maps, net.feature_info, strict=True):
        assert found.shape[:2] == (2, info["num_chs"])
        assert all(is_side(size, images, info["reduction"]) for size in found.shape[2:])
        net.get_submodule(info["module"])


@pytest.mark.newest_torch
@pytest.mark.parametrize("entry", named(quick_up_to=5e6), indirect=True, scope="module")
def test_it_compiles_in_one_graph_forward_and_backward(entry, net, images):
    torch._dynamo.reset()  # after a compilation of the same code for other shapes, it would try dynamic ones: minutes
    net = copy.deepcopy(net)
    expected = [out.detach() for out in outputs(net(images))]

    found = outputs(torch.compile(net, backend="aot_eager", fullgraph=True)(images))
    sum(out.square().mean() for out in found).backward()

    for out, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(out, eager, rtol=1e-4, atol=1e-4 * float(eager.std()))
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_two_runs_give_the_same_outputs_and_gradients(net, images):
    def run() -> list[Tensor]:
        twin = copy.deepcopy(net).train()
        torch.manual_seed(2)
        found = outputs(twin(images))
        sum(out.square().mean() for out in found).backward()
        return [*found, *(parameter.grad for parameter in twin.parameters())]

    assert_same(run(), run())


def test_weights_go_to_the_published_layout_and_back_unchanged(net):
    own = filled(net.state_dict())

    published = publish(net, own)
    back = vs.convert_state_dict(net, published)

    assert published.keys() != own.keys()
    assert_same_state(back, own)
    assert_same_state(publish(net, back), published)


@pytest.mark.parametrize("is_pickled", [False, True], ids=["copied", "pickled"])
@torch.no_grad()
def test_a_copy_computes_the_same(net, images, is_pickled):
    twin = pickle.loads(pickle.dumps(net)) if is_pickled else copy.deepcopy(net)

    assert_same(outputs(twin(images)), outputs(net(images)))


def test_the_metafile_counts_its_parameters(entry, net):
    assert sum(parameter.numel() for parameter in net.parameters()) == entry.facts["params"]
