"""`visionsparse convert`."""

from __future__ import annotations

import pytest
import torch

import visionsparse as vs
from visionsparse import cli
from visionsparse.checkpoint.layouts import publish


def call(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["convert", *map(str, words)])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.fixture
def source(tmp_path):
    net = vs.create_model("biformer_nano")
    torch.save({"model": publish(net, net.state_dict()), "epoch": 1}, tmp_path / "nano.pth")
    return tmp_path / "nano.pth"


def test_it_says_what_it_saw_left_out_and_wrote(capsys, source, tmp_path):
    target = tmp_path / "nano.safetensors"

    code, shown, _ = call(capsys, source, target)

    assert code == 0
    assert "nano.pth: biformer published (`model`); model biformer_nano; left out: epoch" in shown
    assert f"wrote {target} (ours) and {tmp_path / 'nano.json'}" in shown
    assert call(capsys, target, tmp_path / "back.pth", "--to", "published")[0] == 0


def test_a_mistake_is_one_line_and_exit_code_2(capsys, source, tmp_path):
    target = tmp_path / "nano.safetensors"
    target.touch()

    assert call(capsys, source, target)[::2] == (
        2,
        f"visionsparse: {target}: exists already. Name another target, or overwrite it with --force.\n",
    )
    code, _, error = call(capsys, source, tmp_path / "x.safetensors", "--model", "biformer_nanno")
    assert code == 2 and "Did you mean 'biformer_nano'" in error
