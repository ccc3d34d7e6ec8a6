"""Every number of threads is measured in a process that was started with it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from visionsparse.benchmark.processes import with_threads
from visionsparse.errors import ConfigError, UserError
from visionsparse.tools import benchmark


def facts(word: str) -> Iterator[tuple[str, int, int]]:
    for _ in range(2):
        yield word, torch.get_num_threads(), os.getpid()


def refuse() -> Iterator[None]:
    yield None
    raise ConfigError("no such thing.")


def test_the_number_that_torch_has_stays_in_this_process() -> None:
    here = torch.get_num_threads()
    assert list(with_threads(here, facts, "a")) == [("a", here, os.getpid())] * 2


def test_another_number_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before, other = torch.get_num_threads(), torch.get_num_threads() + 1
    first, second = with_threads(other, facts, "a")
    assert first == second
    assert first[:2] == ("a", other)
    assert first[2] != os.getpid()
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (before, "1")


def test_what_goes_wrong_there_is_raised_here() -> None:
    found = with_threads(torch.get_num_threads() + 1, refuse)
    assert next(found) is None
    with pytest.raises(ConfigError, match=r"^no such thing\.$"):
        next(found)


def end() -> Iterator[None]:
    yield None
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told() -> None:
    found = with_threads(torch.get_num_threads() + 1, end)
    assert next(found) is None
    with pytest.raises(UserError, match=r"--threads \d+ ended with exit code -9, killed, perhaps for its memory"):
        next(found)


def test_a_table_for_one_and_two_threads(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    short = ["--image-size", "64", "--batch-size", "1", "--rounds", "1", "--device", "cpu", "--threads", "1,2"]
    benchmark.main(["models", "resnet18", *short, "--json", str(path)])
    content = json.loads(path.read_text())
    assert content["complete"] is True
    assert [(record["model"], record["threads"]) for record in content["results"]] == [("resnet18", 1), ("resnet18", 2)]
