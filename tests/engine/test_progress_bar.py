import functools
import io

import pytest
from rich.console import Console

from tests.engine.tiny import BATCHES
from visionsparse.engine.runner import train
from visionsparse.progress import ProgressBar

SHOW_CURSOR = "\x1b[?25h"


@pytest.fixture
def console(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("visionsparse.progress._REDRAW_AFTER", 0.0)
    monkeypatch.setattr("visionsparse.engine.progress.ProgressBar", functools.partial(ProgressBar, console=console))
    return console


def test_a_training_shows_how_far_it_is_and_gives_the_terminal_back(config, tmp_path, console):
    model = train(config, work_dir=tmp_path / "work")

    shown = console.file.getvalue()
    assert model is not None
    assert f"train 1/{3 * BATCHES}" in shown and f"train {3 * BATCHES}/{3 * BATCHES}" in shown
    assert "100%" in shown and "images/s" in shown
    assert SHOW_CURSOR in shown.rpartition(f"train {3 * BATCHES}/")[2]
