"""Evaluation that is stopped and started again: the same numbers, nothing computed twice."""

from __future__ import annotations

import json

import pytest
import torch

from tests.engine.tiny import BATCH_SIZE, VAL_IMAGES, TinyNet, tiny_config, write_config, write_images
from visionsparse.engine.runner import test as evaluate
from visionsparse.errors import InputError

BATCHES = VAL_IMAGES // BATCH_SIZE


class Killed(BaseException):
    """As sudden as Python gets."""


@pytest.fixture
def forwards(monkeypatch):
    """Counts what the net computes, and kills at the forward of that number (from 1)."""
    seen = {"count": 0, "kill_at": 0}
    forward = TinyNet.forward

    def counting(self, x):
        seen["count"] += 1
        if seen["count"] == seen["kill_at"]:
            raise Killed
        return forward(self, x)

    monkeypatch.setattr(TinyNet, "forward", counting)
    return seen


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in TinyNet().state_dict().items()}}, path)
    return path


@pytest.fixture(scope="module")
def expected(config, checkpoint):
    """Without parts: counts that are summed in memory."""
    return evaluate(config, checkpoint)


def test_parts_change_nothing_and_are_gone_at_the_end(config, checkpoint, expected, tmp_path):
    result = evaluate(config, checkpoint, out=tmp_path / "results.json")

    assert result == expected
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("kill_at", range(1, BATCHES + 1))
def test_a_killed_evaluation_goes_on_behind_what_is_finished(
    config, checkpoint, expected, forwards, kill_at, tmp_path, capsys
):
    out = tmp_path / "results.json"
    forwards["kill_at"] = kill_at
    with pytest.raises(Killed):
        evaluate(config, checkpoint, out=out)
    assert not out.exists()

    evaluate(config, checkpoint, out=out, options={"test_dataloader.num_workers": 1})

    assert json.loads(out.read_text()) == expected
    assert forwards["count"] == BATCHES + 1  # the one that was killed, and no other, is computed twice
    said = f"results.json.parts: {kill_at - 1} of {BATCHES} parts are finished"
    assert (said in capsys.readouterr().out) == (kill_at > 1)


def test_with_all_parts_finished_a_result_needs_no_forward(
    config, checkpoint, expected, forwards, tmp_path, monkeypatch
):
    def killed(*_):
        raise Killed

    out = tmp_path / "results.json"
    with monkeypatch.context() as patch:
        patch.setattr("visionsparse.engine.runner._write_json", killed)
        with pytest.raises(Killed):
            evaluate(config, checkpoint, out=out)

    evaluate(config, checkpoint, out=out)

    assert json.loads(out.read_text()) == expected
    assert forwards["count"] == BATCHES


def test_parts_of_other_weights_data_or_settings_are_never_mixed_in(config, checkpoint, forwards, tmp_path):
    out = tmp_path / "results.json"
    forwards["kill_at"] = 2
    with pytest.raises(Killed):
        evaluate(config, checkpoint, out=out)
    state = torch.load(checkpoint)
    state["state_dict"]["backbone.head.bias"][0] += 1
    torch.save(state, tmp_path / "other.pth")
    more = write_images(tmp_path / "images")
    (more / "val/class0/000.png").rename(more / "val/class0/new.png")

    with pytest.raises(InputError, match="checkpoint differs"):
        evaluate(config, tmp_path / "other.pth", out=out)
    with pytest.raises(InputError, match="config and data differ"):
        evaluate(write_config(tmp_path / "c.py", tiny_config(more)), checkpoint, out=out)
    with pytest.raises(InputError, match="config and batches differ"):
        evaluate(config, checkpoint, out=out, options={"test_dataloader.batch_size": 4})


def test_a_metric_that_keeps_no_rows_is_evaluated_without_parts(config, checkpoint, expected, tmp_path, monkeypatch):
    monkeypatch.delattr("visionsparse.evaluation.ClassificationMetric.rows")
    monkeypatch.setattr("visionsparse.evaluation.ClassificationMetric.process", lambda *_: None)
    monkeypatch.setattr("visionsparse.evaluation.ClassificationMetric.evaluate", lambda _, size: {"num_images": size})
    monkeypatch.delattr("visionsparse.evaluation.ClassificationMetric.details")

    assert evaluate(config, checkpoint, out=tmp_path / "results.json")["num_images"] == VAL_IMAGES
