from __future__ import annotations

import re
from pathlib import Path

import pytest

from visionsparse.cli import run
from visionsparse.engine.soak import Tally
from visionsparse.tools import soak as tool


@pytest.mark.slow
def test_five_kills_lose_nothing(tmp_path, capfd):
    with pytest.raises(SystemExit) as caught:
        run(tool.main, ["kill", "--kills", "5", "--work-dir", str(tmp_path / "soak")])

    output = capfd.readouterr().out
    summary = output.splitlines()[-1]
    assert summary.startswith("soak kill: ok: 5 kills ("), output
    assert "0 checkpoints lost, 0 torn, 0 temporary files left" in summary
    assert caught.value.code == 0


@pytest.mark.parametrize("fault", ["lost", "torn", "left_over", "unequal_runs", "broken_starts"])
def test_any_fault_fails_the_soak(fault):
    assert Tally(kills=10, inside_a_save=2, runs=1).is_clean
    assert not Tally(kills=10, inside_a_save=2, runs=1, **{fault: 1}).is_clean


def test_too_few_kills_inside_a_save_prove_nothing():
    assert not Tally(kills=10, inside_a_save=1, runs=1).is_clean


@pytest.mark.parametrize(
    ("words", "message"),
    [(["kill", "--kills", "0"], "--kills 0: expected 1 or more"), (["kill", "--work-dir", "."], "not an empty folder")],
)
def test_mistakes_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()

    with pytest.raises(SystemExit) as caught:
        run(tool.main, words)

    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_committed_log_is_of_fifty_kills_and_clean():
    log = (Path(__file__).parents[2] / "benchmarks/results/soak_kill.txt").read_text()

    assert "command: visionsparse soak kill --kills 50" in log
    assert len(re.findall(r"^kill \d+: inside a save", log, re.MULTILINE)) >= 10
    assert log.splitlines()[-1].startswith("soak kill: ok: 50 kills (")
