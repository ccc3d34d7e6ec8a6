from __future__ import annotations

import json

import pytest

from tests.engine.tiny import tiny_config, write_config, write_images
from visionsparse.cli import run
from visionsparse.engine.runner import train
from visionsparse.tools import test as tool


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("test_tool")
    config = write_config(folder / "tiny.py", tiny_config(write_images(folder / "images")))
    train(config, work_dir=folder / "work", options={"train_cfg.max_epochs": 1})
    return config, folder / "work/epoch_1.pth"


def test_it_prints_tables_and_writes_json_and_picture(trained, tmp_path, capsys):
    config, checkpoint = trained

    tool.main([str(config), str(checkpoint), "--out", str(tmp_path / "results.json"), "--device", "cpu"])

    result = json.loads((tmp_path / "results.json").read_text())
    assert {"top1", "top5", "ece", "num_images", "per_class", "confusion_matrix"} <= result.keys()
    assert (tmp_path / "results_confusion.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for word in ("top1 %", "top5 %", "ece", "num_images", "class2"):
        assert word in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cfg-options", "test_evaluator.topk=(1,5)"], "top-5, but there are 3 classes"),
        (["--cfg-options", "model.backbone.num_classes=4"], "Only the head differs"),
    ],
)
def test_the_users_mistakes_are_one_line_and_exit_code_2(trained, flags, message, capsys):
    config, checkpoint = trained

    with pytest.raises(SystemExit) as caught:
        run(tool.main, [str(config), str(checkpoint), *flags])

    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
