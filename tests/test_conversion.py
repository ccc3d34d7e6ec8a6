"""Checkpoint files between layouts, and telling whose weights they are."""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import visionsparse as vs
from tests.golden.golden import fill_module_
from tests.models.named import named
from visionsparse._version import __version__
from visionsparse.checkpoint import read_checkpoint, save_checkpoint
from visionsparse.checkpoint.layouts import publish
from visionsparse.conversion import convert_checkpoint, guess_model
from visionsparse.errors import CheckpointError, ConfigError
from visionsparse.progress import ProgressBar

# Ours alone can't be told apart: their own names and shapes are the same.
TWINS = {"biformer_stl": "biformer_stl_nchw", "biformer_stl_nchw": "biformer_stl"}


def filled(name: str, **overrides) -> nn.Module:
    return fill_module_(vs.create_model(name, **overrides))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].equal(tensor), name


@pytest.fixture
def published(tmp_path):
    """A training file of the authors, of a net with five classes."""
    weights = publish(net := filled("biformer_nano", num_classes=5), net.state_dict())
    content = {"model": weights, "model_ema": weights, "epoch": 299, "args": argparse.Namespace(lr=5e-4)}
    torch.save(content, tmp_path / "best.pth")
    return tmp_path / "best.pth", weights


def test_a_published_file_becomes_ours_and_comes_back_bit_for_bit(published, tmp_path):
    source, weights = published

    convert_checkpoint(source, tmp_path / "ours.safetensors")
    convert_checkpoint(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="published")

    assert_same(read_checkpoint(tmp_path / "ours.safetensors"), filled("biformer_nano", num_classes=5).state_dict())
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == {"model"}
    assert_same(back["model"], weights)


def test_half_precision_stays(tmp_path):
    net = filled("biformer_nano").half()
    torch.save({"model": publish(net, net.state_dict())}, tmp_path / "half.pth")

    convert_checkpoint(tmp_path / "half.pth", tmp_path / "ours.safetensors")

    assert_same(read_checkpoint(tmp_path / "ours.safetensors"), net.state_dict())


def test_the_note_says_where_the_weights_came_from(published, tmp_path):
    source, _ = published

    provenance = convert_checkpoint(source, tmp_path / "ours.safetensors")

    note = json.loads((tmp_path / "ours.json").read_text())
    assert note["source"] == "best.pth"
    assert note["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert note["layout"].startswith("biformer published (`model`")
    assert note["left_out"] == ["model_ema", "epoch", "args"] == list(provenance.left_out)
    assert (note["model"], note["num_classes"], note["written"]) == ("biformer_nano", 5, "ours")
    assert note["visionsparse"] == __version__
    assert note["date"][:4].isdigit()


def test_our_training_files_convert_without_their_task(tmp_path):
    net = filled("biformer_nano", num_classes=10)
    state = {f"backbone.{name}": tensor for name, tensor in net.state_dict().items()}
    content = {"state_dict": {**state, "data_preprocessor.mean": torch.zeros(3)}, "meta": {"epoch": 3}}
    save_checkpoint(content, tmp_path / "epoch_3.pth")

    provenance = convert_checkpoint(tmp_path / "epoch_3.pth", tmp_path / "net.pth", to="published")

    assert provenance.left_out == ("meta", "data_preprocessor.mean")
    assert_same(torch.load(tmp_path / "net.pth", weights_only=True)["model"], publish(net, net.state_dict()))


@pytest.mark.parametrize("name", named(quick_up_to=40e6))
@pytest.mark.parametrize("is_published", [True, False], ids=["published", "ours"])
def test_the_model_is_told_by_the_weights(name, is_published):
    with torch.device("meta"):
        net = vs.create_model(name)
    own = net.state_dict()
    content = {"model": publish(net, own)} if is_published else own

    if name in TWINS and not is_published:
        with pytest.raises(CheckpointError, match=f"could be .*{TWINS[name]}.*Say --model NAME"):
            guess_model(content)
    else:
        assert guess_model(content) == name


def test_a_note_beside_the_file_tells_twins_apart(tmp_path):
    net = filled("biformer_stl_nchw")
    weights = publish(net, net.state_dict())
    torch.save({"model": weights}, tmp_path / "stl_nchw.pth")

    convert_checkpoint(tmp_path / "stl_nchw.pth", tmp_path / "ours.safetensors")
    convert_checkpoint(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="published")

    assert_same(torch.load(tmp_path / "back.pth", weights_only=True)["model"], weights)
    with pytest.raises(CheckpointError, match="fits biformer_stl, but was published as another model"):
        convert_checkpoint(tmp_path / "stl_nchw.pth", tmp_path / "other.safetensors", model="biformer_stl")


def test_weights_of_no_model_ask_for_a_name():
    with pytest.raises(CheckpointError, match=r"names and shapes of no model .*Say --model NAME"):
        guess_model({"weight": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="no weights found"):
        guess_model({"epoch": 3})


def test_weights_of_another_model_are_refused_and_nothing_is_written(published, tmp_path):
    with pytest.raises(CheckpointError, match="best.pth: does not fit BiFormer"):
        convert_checkpoint(published[0], tmp_path / "ours.safetensors", model="biformer_tiny")
    assert not (tmp_path / "ours.safetensors").exists()


def test_nothing_is_overwritten_unless_told(published, tmp_path):
    target = tmp_path / "ours.safetensors"
    convert_checkpoint(published[0], target)

    with pytest.raises(ConfigError, match="ours.safetensors: exists already.*--force"):
        convert_checkpoint(published[0], target)
    convert_checkpoint(published[0], target, force=True)


@pytest.mark.parametrize(
    ("target", "to", "message"),
    [
        ("ours.pth", "ours", r"our layout is written as .safetensors: name it ours.safetensors"),
        ("back.safetensors", "published", r"the published layout is written as .pth or .pt"),
        ("best.pth", "published", r"is the file to convert"),
    ],
)
def test_a_target_that_can_not_be_is_refused(published, tmp_path, target, to, message):
    with pytest.raises(ConfigError, match=message):
        convert_checkpoint(published[0], tmp_path / target, to=to)


def test_a_terminal_is_told_how_far_it_is(tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("visionsparse.progress._REDRAW_AFTER", 0.0)
    monkeypatch.setattr("visionsparse.conversion.ProgressBar", functools.partial(ProgressBar, console=console))
    save_checkpoint(vs.create_model("biformer_nano").state_dict(), tmp_path / "nano.safetensors")

    convert_checkpoint(tmp_path / "nano.safetensors", tmp_path / "again.safetensors", model="biformer_nano")

    shown = console.file.getvalue()
    steps = ("reading nano.safetensors", "finding its model", "writing again.safetensors", "hashing nano.safetensors")
    places = [shown.index(step) for step in steps]
    assert places == sorted(places)
