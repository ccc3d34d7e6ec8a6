from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.engine.tiny import tiny_config, write_config, write_images
from visionsparse.checkpoint import read_checkpoint
from visionsparse.cli import run
from visionsparse.tools import train as tool


@pytest.fixture
def config(tmp_path):
    """A config of the zoo's own models, so that another process can train it."""
    config = tiny_config(write_images(tmp_path / "images"))
    config["model"]["backbone"] = dict(
        type="biformer_nano", num_classes=3, depths=(1, 1), embed_dims=(32, 64), drop_path_rate=0.2
    )
    config["train_cfg"] = dict(max_epochs=1)
    return write_config(tmp_path / "nano.py", config)


def test_flags_reach_training(config, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr("visionsparse.engine.runner.train", lambda *args, **kwargs: given.update(kwargs, args=args))

    flags = "--work-dir w --resume --load-from x.pth --amp --compile --seed 3 --deterministic --device cpu"
    tool.main([str(config), *flags.split(), "--cfg-options", "train_cfg.max_epochs=2"])

    assert given == dict(
        args=(str(config),),
        work_dir="w",
        resume=True,
        load_from="x.pth",
        amp=True,
        compile=True,
        seed=3,
        deterministic=True,
        device="cpu",
        options={"train_cfg.max_epochs": 2},
    )


def test_progress_is_a_line_with_epoch_loss_rate_speed_and_time_left(config, tmp_path, capsys):
    tool.main([str(config), "--work-dir", str(tmp_path / "work")])

    (line,) = [line for line in capsys.readouterr().out.splitlines() if "  train  " in line]
    for word in ("epoch 1/1", "iter 8/8", "loss ", "lr ", " images/s", "eta 0:00:00"):
        assert word in line


def test_a_wrong_key_is_one_line_and_exit_code_2_in_a_process_of_its_own(config, tmp_path):
    command = [sys.executable, "-m", "visionsparse.tools.train", str(config), "--work-dir", str(tmp_path / "work")]

    result = subprocess.run(
        [*command, "--cfg-options", "model.backbone.num_clases=3"], capture_output=True, text=True, check=False
    )

    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "model.backbone.num_clases" in result.stderr
    assert "'num_classes'" in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume", "gone.pth"], "--resume gone.pth: no such file"),
        (["--device", "gpu"], "--device gpu: expected cpu, cuda"),
        (["--cfg-options", "lr"], "expected KEY=VALUE"),
        (["--load-from", "gone.pth"], "gone.pth"),
    ],
)
def test_the_users_mistakes_are_exit_code_2(config, tmp_path, flags, message, capsys):
    with pytest.raises(SystemExit) as caught:
        run(tool.main, [str(config), "--work-dir", str(tmp_path / "work"), *flags])

    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_to_equal_weights_and_count_each_image_once(config, tmp_path):
    work = tmp_path / "work"
    launcher = "-m torch.distributed.run --standalone --nproc-per-node 2 -m visionsparse.tools.train"
    options = ["train_dataloader.batch_size=3", "optim_wrapper.accumulative_counts=1"]

    subprocess.run(
        [sys.executable, *launcher.split(), str(config), "--work-dir", str(work), "--cfg-options", *options], check=True
    )

    checkpoint = read_checkpoint(work / "epoch_1.pth")
    assert checkpoint["meta"]["iter"] == 8
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())
    assert float(checkpoint["message_hub"]["log_scalars"]["val/num_images"]["values"][-1]) == 18
