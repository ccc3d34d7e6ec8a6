from __future__ import annotations

import importlib.util

import pytest

from visionsparse.engine.runner import train
from visionsparse.errors import ConfigError


def one_epoch(**visualizer) -> dict:
    return {"train_cfg.max_epochs": 1, "visualizer": dict(type="Visualizer", **visualizer)}


def test_tensorboard_gets_the_curves_beside_scalars_json(config, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(config, work_dir=tmp_path, options=one_epoch(tensorboard=True))

    (events,) = tmp_path.glob("**/events.out.tfevents*")
    assert (events.parent / "scalars.json").is_file()
    curves = EventAccumulator(str(events.parent)).Reload()
    assert {"loss", "lr", "top1"} <= set(curves.Tags()["scalars"])


def test_tensorboard_is_off_unless_asked_for(config, tmp_path) -> None:
    train(config, work_dir=tmp_path, options=one_epoch())

    assert list(tmp_path.glob("**/scalars.json"))
    assert not list(tmp_path.glob("**/events.out.tfevents*"))


@pytest.mark.parametrize("switch", [dict(tensorboard=True), dict(vis_backends=[dict(type="TensorboardVisBackend")])])
def test_where_it_is_not_installed_one_line_says_how_to_install_it(switch, config, tmp_path, monkeypatch) -> None:
    installed = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else installed(name, *more)
    )

    with pytest.raises(ConfigError, match=r"TensorBoard is asked for but not installed: pip install tensorboard$"):
        train(config, work_dir=tmp_path, options=one_epoch(**switch))


def test_a_misspelt_switch_is_refused_with_the_near_miss(config, tmp_path) -> None:
    with pytest.raises(ConfigError, match="visualizer.tensorbord: .* Did you mean 'tensorboard'"):
        train(config, work_dir=tmp_path, options=one_epoch(tensorbord=True))
