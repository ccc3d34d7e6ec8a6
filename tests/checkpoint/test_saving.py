"""Saving: the new file whole, or the former one whole, and nothing left behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from visionsparse.checkpoint.reading import read_checkpoint
from visionsparse.checkpoint.saving import save_checkpoint
from visionsparse.errors import CheckpointError


def weights(value: float, size: int = 4) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((size,), value)}


@pytest.fixture(params=["best.pth", "best.safetensors"])
def former(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A checkpoint of ones, in a folder of its own."""
    path = tmp_path / "run" / request.param
    save_checkpoint(weights(1.0), path)
    return path


def assert_former_is_whole(path: Path) -> None:
    assert torch.equal(read_checkpoint(path)["weight"], torch.ones(4))
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_takes_the_place_of_the_former(former: Path) -> None:
    save_checkpoint(weights(2.0), former)

    assert torch.equal(read_checkpoint(former)["weight"], torch.full((4,), 2.0))
    assert list(former.parent.iterdir()) == [former]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_on_the_way_leaves_the_former_file(former: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(CheckpointError, match=r"can't be saved: Input/output error. \d+ MiB are free there."):
        save_checkpoint(weights(2.0), former)

    assert_former_is_whole(former)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """As far as writing goes: no file may grow beyond 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
def test_a_disk_that_fills_up_leaves_the_former_file(former: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be saved: File too large") as caught:
        save_checkpoint(weights(2.0, size=2**18), former)

    assert str(former) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_former_is_whole(former)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_the_former_file(
    former: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    def interrupt(*_: Any) -> None:
        raise interruption

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(interruption):
        save_checkpoint(weights(2.0), former)

    assert_former_is_whole(former)


def test_what_can_not_be_pickled_leaves_the_former_file(tmp_path: Path) -> None:
    save_checkpoint(weights(1.0), tmp_path / "last.pth")

    with pytest.raises(AttributeError):
        save_checkpoint({"hook": lambda: None}, tmp_path / "last.pth")

    assert_former_is_whole(tmp_path / "last.pth")


def test_the_folder_is_made_and_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "last.pth"
    umask = os.umask(0o027)
    try:
        save_checkpoint(weights(1.0), path)
    finally:
        os.umask(umask)

    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    save_checkpoint(weights(1.0), tmp_path / "epoch_1.pth")
    (tmp_path / "last.pth").symlink_to("epoch_1.pth")

    save_checkpoint(weights(2.0), tmp_path / "last.pth")

    assert (tmp_path / "last.pth").is_symlink()
    assert read_checkpoint(tmp_path / "epoch_1.pth")["weight"][0] == 2


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")

    with pytest.raises(CheckpointError, match=r"run/last\.pth: can't be saved"):
        save_checkpoint(weights(1.0), tmp_path / "run" / "last.pth")


def test_safetensors_takes_tied_and_strided_tensors_and_nothing_but_tensors(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    save_checkpoint({"a": weight, "b": weight, "c": weight.t()}, tmp_path / "w.safetensors")

    found = read_checkpoint(tmp_path / "w.safetensors")
    assert torch.equal(found["a"], found["b"])
    assert torch.equal(found["c"], weight.t())
    with pytest.raises(CheckpointError, match="flat dict of tensors"):
        save_checkpoint({"model": {"a": weight}}, tmp_path / "w.safetensors")
