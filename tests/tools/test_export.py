"""`visionsparse export`."""

from __future__ import annotations

import pytest
import torch

import visionsparse as vs
from visionsparse import cli


def call(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", *map(str, words)])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_a_config_with_its_checkpoint_becomes_a_file(capsys, tmp_path):
    net = vs.create_model("biformer_nano", num_classes=10).eval()
    vs.checkpoint.save_checkpoint({"state_dict": net.state_dict()}, tmp_path / "nano.pth")
    words = ["biformer/biformer_nano_digits", tmp_path / "nano.pt2", "--checkpoint", tmp_path / "nano.pth"]

    code, shown, _ = call(capsys, *words, "--format", "torch-export")

    assert code == 0
    assert f"wrote {tmp_path / 'nano.pt2'}: torch-export, images of 32 x 32, any batch" in shown
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(tmp_path / "nano.pt2").module()(images), net(images))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["biformer_nano", "x.onnx", "--format", "onnx"], "no checkpoint given"),
        (["biformer_nanno", "x.onnx", "--format", "onnx", "--checkpoint", "c.pth"], "Did you mean 'biformer_nano"),
        (["biformer_nano", "x.onnx", "--format", "onnx", "--checkpoint", "missing.pth"], "missing.pth: no such file"),
        (["biformer_nano", "x.onnx", "--format", "tflite", "--checkpoint", "c.pth"], "invalid choice: 'tflite'"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(capsys, words, message):
    code, _, error = call(capsys, *words)

    assert code == 2
    assert message in error and error.count("\n") == 1
