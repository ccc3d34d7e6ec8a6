"""Exported files, run by onnxruntime and by torch alone, against the net itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import visionsparse as vs
from visionsparse.errors import ConfigError, InputError
from visionsparse.exporting import export_model

SHALLOW = {"depths": (1, 1, 1, 1)}  # a stage's blocks are alike, and each takes seconds


def run_onnx(path, images: Tensor) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(out) for out in session.run(None, {session.get_inputs()[0].name: images.numpy()})]


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.std()))


@pytest.mark.parametrize(
    ("name", "overrides", "size"),
    [
        ("biformer_nano", {"depths": (1, 1)}, (32, 32)),
        ("biformer_nano", {"depths": (1, 1)}, (48, 32)),
        pytest.param("biformer_tiny", {}, (224, 224), marks=pytest.mark.slow),
        pytest.param("biformer_tiny", SHALLOW, (112, 224), marks=pytest.mark.slow),
        pytest.param("biformer_stl_nchw", SHALLOW, (224, 224), marks=pytest.mark.slow),
        pytest.param("biformer_stl_nchw", SHALLOW, (200, 240), marks=pytest.mark.slow),
        pytest.param("biformer_small_det", SHALLOW, (100, 150), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_onnxruntime_computes_what_the_net_does(tmp_path, name, overrides, size):
    torch.manual_seed(0)
    net = vs.create_model(name, **overrides).eval()

    export_model(net, tmp_path / "net.onnx", "onnx", size)

    images = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(5))
    expected = net(images)
    for found, wanted in zip(
        run_onnx(tmp_path / "net.onnx", images), [expected] if isinstance(expected, Tensor) else expected, strict=True
    ):
        assert_close(found, wanted)


@pytest.mark.parametrize(
    ("name", "overrides", "size"),
    [
        ("biformer_nano", {"depths": (1, 1)}, (32, 32)),
        pytest.param("biformer_nano", {}, (48, 32), marks=pytest.mark.slow),
        pytest.param("biformer_tiny", {}, (224, 224), marks=pytest.mark.slow),
        pytest.param("biformer_tiny", SHALLOW, (112, 224), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_an_exported_program_runs_where_visionsparse_is_not(tmp_path, name, overrides, size):
    torch.manual_seed(0)
    net = vs.create_model(name, **overrides).eval()

    export_model(net, tmp_path / "net.pt2", "torch-export", size)

    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(5))
    torch.save({"images": images, "expected": net(images)}, tmp_path / "case.pt")
    script = (
        "import sys, torch\n"
        "case = torch.load('case.pt')\n"
        "found = torch.export.load('net.pt2').module()(case['images'])\n"
        "assert not any('visionsparse' in name for name in sys.modules)\n"
        "torch.testing.assert_close(found, case['expected'], rtol=0, atol=1e-3 * float(case['expected'].std()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class _Different(nn.Module):
    """Not the same net when it is exported: what a wrong export would be."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (2 if torch.compiler.is_exporting() else 3)


def test_what_can_not_be_exported_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match="_Branching can't be exported as torch-export: ") as caught:
        export_model(_Branching(), tmp_path / "net.pt2", "torch-export", (8, 8))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    with pytest.raises(InputError, match="not written: the torch-export file is off by"):
        export_model(_Different(), tmp_path / "net.pt2", "torch-export", (8, 8))
    assert not list(tmp_path.iterdir())


def test_a_size_that_does_not_fit_is_refused_before(tmp_path):
    with pytest.raises(InputError, match="stage 1: a map of 8 x 9 does not divide"):
        export_model(vs.create_model("biformer_nano"), tmp_path / "net.onnx", "onnx", (32, 36))


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [("net.pt", "torch-export", "ends in .pt2: name it net.pt2"), ("net.onnx", "tflite", "expected 'onnx' or")],
)
def test_a_wrong_ending_or_format_is_refused(tmp_path, name, format, message):
    with pytest.raises(ConfigError, match=message):
        export_model(nn.Identity(), tmp_path / name, format, (8, 8))


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)

    with pytest.raises(ConfigError, match=r"onnxscript is missing.*pip install 'visionsparse\[export\]'"):
        export_model(nn.Identity(), tmp_path / "net.onnx", "onnx", (8, 8))
