"""Files made to harm whoever loads them: nothing runs, little memory is taken, one line is said or the weights are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.hostile import containers, pickles
from tests.checkpoint.judged import judge_each
from tests.fuzz.checkpoint import BIAS, WEIGHT, digest

Verdicts = dict[str, dict[str, Any]]

_folder = tempfile.TemporaryDirectory()
CANARY = Path(_folder.name) / "canary"
CASES = {**pickles.cases(CANARY), **containers.cases(CANARY)}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    return judge_each({name: content for name, (content, _) in CASES.items()}, tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_in_one_line_or_loads_its_whole_weights(
    verdicts: dict[str, dict[str, Any]], name: str
) -> None:
    _, expected = CASES[name]
    verdict = verdicts[name]

    assert expected in verdict["outcome"]
    assert not CANARY.exists()
    if expected == "loaded":
        assert verdict["weights"] == digest(WEIGHT, BIAS)


@pytest.mark.slow
@pytest.mark.parametrize("floods", [pickles.floods, containers.floods], ids=["pickles", "containers"])
def test_as_many_objects_as_a_file_may_hold_take_no_more_than_the_memory_promised(tmp_path: Path, floods: Any) -> None:
    cases = floods()
    verdicts = judge_each({name: content for name, (content, _) in cases.items()}, tmp_path)

    outcomes = {name: verdict["outcome"] for name, verdict in verdicts.items()}
    assert not {name: outcome for name, outcome in outcomes.items() if cases[name][1] not in outcome}
