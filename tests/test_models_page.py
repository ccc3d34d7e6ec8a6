"""The commands of docs/models.md, in their order, in a folder with the published checkpoint that they name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

import visionsparse as vs
from tests.reader import blocks_of, commands_of, run, shortened
from visionsparse import cli
from visionsparse.checkpoint.layouts import publish

PAGE = Path(__file__).parents[1] / "docs/models.md"
COMMANDS = [command for language, text in blocks_of(PAGE) if language == "bash" for command in commands_of(text)]


def test_every_command_is_a_tool_of_ours_with_flags_that_it_has(capsys):
    assert len(COMMANDS) >= 7
    for command in COMMANDS:
        program, tool, *words = shlex.split(command)
        assert program == "visionsparse"
        with pytest.raises(SystemExit):
            cli.main([tool, "--help"])
        shown = capsys.readouterr().out
        assert all(word in shown for word in words if word.startswith("--")), command


@pytest.mark.slow
def test_the_commands_work_in_their_order(tmp_path):
    net = vs.create_model("biformer_tiny")
    weights = publish(net, net.state_dict())
    torch.save({"model": weights, "epoch": 299}, tmp_path / "biformer_tiny_in1k.pth")

    for command in COMMANDS:
        run(shortened(command), tmp_path)

    rows = json.loads((tmp_path / "costs.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {"biformer_tiny", "biformer_small", "resnet50"}
    back = torch.load(tmp_path / "as_published.pth", weights_only=True)["model"]
    assert back.keys() == weights.keys() and all(back[name].equal(weights[name]) for name in weights)
    for name in ("costs.png", "biformer_tiny.json", "biformer_tiny.onnx", "biformer_tiny.pt2"):
        assert (tmp_path / name).stat().st_size > 0
