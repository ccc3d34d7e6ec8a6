"""Loading: our files and published ones, under whatever wrapping, into a model that they fit; else nothing changes."""

from __future__ import annotations

import argparse
import importlib.machinery
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import visionsparse as vs
from visionsparse.checkpoint import LoadReport, convert_state_dict, load_checkpoint, save_checkpoint
from visionsparse.errors import CheckpointError

pytestmark = pytest.mark.newest_torch


class Net(nn.Module):
    """A net of nobody's system."""

    def __init__(self, num_classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, num_classes)


class Task(nn.Module):
    """A task model: a backbone and what normalises its inputs."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.data_preprocessor = nn.Module()
        self.data_preprocessor.register_buffer("mean", torch.rand(3))


class ToyNet(Net):
    """A net of a system `toy`, whose published names and shapes differ from ours."""

    __module__ = "visionsparse.models.toy.model"

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(2, 6)
        self.fc_norm = nn.LayerNorm(4)

    def get_classifier(self) -> nn.Module:
        return self.head


class ToyAttention(nn.Module):
    __module__ = "visionsparse.models.toy.model"

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2, 6)


def join_qkv(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    joined = {}
    for name, tensor in state.items():
        if ".q." in f".{name}":
            parts = [state[f".{name}".replace(".q.", f".{part}.")[1:]] for part in "qkv"]
            joined[f".{name}".replace(".q.", ".qkv.")[1:]] = torch.cat(parts)
        elif not {".k.", ".v."} & {f".{name}"[i : i + 3] for i in range(len(name))}:
            joined[name] = tensor
    return joined


@pytest.fixture(autouse=True)
def toy_system(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "visionsparse.models.toy.checkpoint"
    table: Any = types.ModuleType(name)
    table.__spec__ = importlib.machinery.ModuleSpec(name, None)
    table.LAYOUT, table.WEIGHTS_KEY, table.reshape = "toy published", "ema", join_qkv
    table.RENAMES = ((r"^stem\.(\d)", r"body.\1"), (r"^classifier\.", "head."), (r"to_([qkv])\.", r"\1."))
    monkeypatch.setitem(sys.modules, name, table)


def filled(model: nn.Module, value: float = 0.5) -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in model.state_dict().items()}


def toy_published(value: float = 0.5) -> dict[str, Tensor]:
    """A state dict of ToyNet as its authors would have published it."""
    state = {}
    for name, tensor in filled(ToyNet(), value).items():
        published = name.replace("body.", "stem.").replace("head.", "classifier.")
        if ".qkv." in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                state[published.replace(".qkv.", f".to_{part}.")] = third
        else:
            state[published] = tensor
    return state


def assert_filled(model: nn.Module, value: float = 0.5, but: str = "none") -> None:
    for name, tensor in model.state_dict().items():
        if not name.startswith((but, "data_preprocessor.")):
            assert torch.equal(tensor, torch.full_like(tensor, value)), name


def refusal(model: nn.Module, source: Any, strict: bool = True) -> str:
    """The one line that `source` is refused with, `model` untouched bit for bit."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, source, strict=strict)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("build", [Net, ToyNet])
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path, build: Callable[[], nn.Module], suffix: str) -> None:
    saved, loaded = build(), build()
    save_checkpoint(saved.state_dict(), tmp_path / f"net{suffix}")

    report = load_checkpoint(loaded, tmp_path / f"net{suffix}")

    assert report == LoadReport("the model's own names")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in saved.state_dict().items())


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda state: state, ""),
        (lambda state: {"state_dict": state}, "`state_dict`"),
        (lambda state: {"model": state, "model_ema": {"x": torch.ones(1)}, "optimizer": {}}, "`model`; model_ema"),
        (lambda state: {"model_state_dict": state, "epoch": 3}, "`model_state_dict`"),
        (lambda state: {"model": state, "args": argparse.Namespace(lr=1)}, "`model`"),
        (lambda state: {"state_dict": state, "meta": {"epoch": 1}, "message_hub": {"x": 1.0}}, "(`state_dict`)"),
        (lambda state: {"state_dict": state, "ema_state_dict": {"module.x": torch.ones(1)}}, "the averaged weights"),
    ],
)
def test_weights_are_found_in_every_wrapping_and_named(tmp_path: Path, wrap: Any, taken: str) -> None:
    content = wrap(filled(Net()))
    torch.save(content, tmp_path / "wrapped.pth")

    for source in (content, tmp_path / "wrapped.pth"):
        model = Net()
        report = load_checkpoint(model, source)
        assert_filled(model)
        assert taken in report.layout


def test_the_weights_whose_accuracy_was_published_are_taken() -> None:
    model = ToyNet()

    report = load_checkpoint(model, {"model": toy_published(9.0), "ema": toy_published(0.5)})

    assert_filled(model)
    assert report.layout == "toy published (`ema`; model beside it not used)"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("build", [Net, ToyNet])
@pytest.mark.parametrize("is_task", [False, True], ids=["plain", "task"])
def test_prefixes_of_the_file_and_of_the_model_need_not_agree(
    build: Callable[[], nn.Module], prefix: str, is_task: bool
) -> None:
    states = [filled(build())] + ([toy_published()] if build is ToyNet else [])
    for state in states:
        model = Task(build()) if is_task else build()
        load_checkpoint(model, {prefix + name: tensor for name, tensor in state.items()})
        assert_filled(model)


def test_a_task_models_file_fits_a_plain_net_and_keeps_the_models_own_normalisation() -> None:
    task, plain = Task(ToyNet()), ToyNet()
    mean = task.data_preprocessor.mean.clone()

    reports = [load_checkpoint(model, filled(Task(ToyNet()))) for model in (task, plain)]

    assert_filled(task)
    assert_filled(plain)
    assert torch.equal(task.data_preprocessor.mean, mean)
    assert not any(report.missing or report.unexpected for report in reports)


def test_a_lone_part_of_a_system_is_converted_too() -> None:
    attention = ToyAttention()
    published = {f"to_{part}.{name}": torch.ones(2, 2) for part in "qkv" for name in ("weight", "bias")}
    published = {name: tensor if "weight" in name else tensor[0] for name, tensor in published.items()}

    assert load_checkpoint(attention, published).layout == "toy published"
    assert_filled(attention, 1.0)


def test_gradients_flow_back_to_the_published_tensors() -> None:
    published = {name: tensor.float().requires_grad_() for name, tensor in toy_published().items()}

    converted = convert_state_dict(ToyNet(), published)

    sum(tensor.sum() for tensor in converted.values()).backward()  # type: ignore[union-attr]
    assert converted.keys() == ToyNet().state_dict().keys()
    assert all(torch.equal(tensor.grad, torch.ones_like(tensor)) for tensor in published.values())  # type: ignore[arg-type]


def test_names_that_are_ours_already_pass_through() -> None:
    ours = ToyNet().state_dict()

    converted = convert_state_dict(ToyNet(), ours)

    assert all(converted[name] is tensor for name, tensor in ours.items())


@pytest.mark.parametrize("is_task", [False, True], ids=["plain", "task"])
@pytest.mark.parametrize("build", [Net, ToyNet])
def test_a_head_of_another_number_of_classes_is_left_out_only_if_asked(
    build: Callable[..., nn.Module], is_task: bool
) -> None:
    model = Task(build(7)) if is_task else build(7)
    source = filled(build(3))
    head = ("backbone." if is_task else "") + "head."

    message = refusal(model, source)
    report = load_checkpoint(model, source, strict=False)

    assert f"{head}weight (3, 4), expected (7, 4)" in message
    assert "strict=False" in message
    assert_filled(model, but=head)
    assert report.missing == report.unexpected == (f"{head}weight", f"{head}bias")
    assert f"left as they were: {head}weight, {head}bias" in str(report)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("body.1.num_batches_tracked"), "1 missing (body.1.num_batches_tracked)"),
        (lambda state: state.update(extra=torch.ones(1)), "1 unexpected (extra)"),
        (lambda state: state.update({"body.0.weight": torch.ones(4, 3, 3, 3)}), "(4, 3, 3, 3), expected (4, 3, 1, 1)"),
        (lambda state: state.update({"body.0.bias": torch.ones(4, device="meta")}), "on meta"),
        (lambda state: state.update({"body.0.bias": torch.ones(4).to_sparse()}), "sparse"),
        (lambda state: state.update({"body.0.bias": 1}), "state_dict: body.0.bias (str) names int"),
        (lambda state: state.update({7: torch.ones(1)}), "7 (int) names Tensor"),
        (lambda state: state.update({"a\n\x1b[2J": torch.ones(1)}), "1 unexpected (a ?[2J)"),
        (lambda state: state.clear(), "no weights found"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change: Any, expected: str, strict: bool) -> None:
    state: dict[str, Any] = filled(Net())
    change(state)

    assert expected in refusal(Net(), {"state_dict": state}, strict)


@pytest.mark.parametrize(
    ("model", "source", "expected"),
    [
        (Net(), filled(nn.Sequential(nn.Linear(2, 2))), "another model"),
        (ToyNet(), filled(nn.Sequential(nn.Linear(2, 2))), "another model"),
        (Net(), filled(Net(width=5)), "another size or variant"),
        (Net(), {"epoch": 3, "lr": 0.1}, "it holds epoch, lr; expected a state dict, or one under state_dict or model"),
        (ToyNet(), {"epoch": 3}, "one under ema or"),
        (ToyNet(), {**toy_published(), "body.0.weight": torch.ones(1)}, "two entries become body.0.weight"),
        (ToyNet(), {**toy_published(), "x.to_q.weight": torch.ones(1)}, "names of toy published, but can't be"),
    ],
)
def test_a_refusal_says_what_is_likely_wrong(model: nn.Module, source: Any, expected: str) -> None:
    assert expected in refusal(model, source)


def test_a_net_without_a_head_takes_the_rest_of_a_file_only_if_asked() -> None:
    model = ToyNet()
    model.head = nn.Identity()  # type: ignore[assignment]

    assert "2 unexpected (head.weight, head.bias)" in refusal(model, toy_published())
    report = load_checkpoint(model, toy_published(), strict=False)

    assert_filled(model)
    assert (report.missing, report.unexpected) == ((), ("head.weight", "head.bias"))


def test_the_models_dtype_stays_and_the_source_is_not_shared() -> None:
    model, state = Net().half(), filled(Net())

    load_checkpoint(model, state)
    state["head.bias"].zero_()

    assert model.head.weight.dtype == torch.float16
    assert_filled(model)


def test_a_file_that_can_not_be_read_leaves_the_model_untouched(tmp_path: Path) -> None:
    save_checkpoint(Net().state_dict(), tmp_path / "net.pth")
    whole = (tmp_path / "net.pth").read_bytes()
    (tmp_path / "net.pth").write_bytes(whole[: len(whole) // 2])

    assert "Download or copy it again" in refusal(Net(), tmp_path / "net.pth")
    assert "Did you mean 'net.pth'?" in refusal(Net(), tmp_path / "nett.pth")


def test_a_net_of_the_zoo_takes_its_own_file_and_a_task_models(tmp_path: Path) -> None:
    net = vs.create_model("biformer_nano", num_classes=10)
    save_checkpoint({"state_dict": Task(net).state_dict(), "meta": {}}, tmp_path / "epoch_1.pth")
    fresh, other_head = (
        vs.create_model("biformer_nano", num_classes=10),
        vs.create_model("biformer_nano", num_classes=5),
    )

    load_checkpoint(fresh, tmp_path / "epoch_1.pth")
    report = load_checkpoint(other_head, tmp_path / "epoch_1.pth", strict=False)

    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in net.state_dict().items())
    assert set(report.missing) == {"head.weight", "head.bias"}
    assert "another model" in refusal(Net(), tmp_path / "epoch_1.pth", strict=False)
