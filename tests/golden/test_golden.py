"""Every golden case through its system's adapter: tests/golden/cases/SYSTEM/CASE is run by tests/golden/SYSTEM.py."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.golden.golden import Case
from visionsparse.ops import use_backend

CASES = Path(__file__).parent / "cases"
STEMS = sorted(str(path.relative_to(CASES).with_suffix("")) for path in CASES.glob("*/*.json"))

# fp32 rounding was seen to give up to 1.6e-5 of an output's std. The cases' own tolerances (1e-3, operators 1e-4) would
# let a wrong constant pass: another epsilon in a norm gives 1e-5 to 2e-4.
ROUNDING = 3e-5


def run_case(stem: str) -> dict[str, float]:
    """Runs a case blind and checks it; the error of every output."""
    case = Case(stem, root=CASES)
    adapter = importlib.import_module(f"tests.golden.{Path(stem).parent}")
    return case.check(adapter.run(case.blind()))


@pytest.mark.newest_torch
@pytest.mark.parametrize("stem", STEMS)
def test_case_is_reproduced_up_to_rounding(stem: str) -> None:
    report = run_case(stem)

    print(stem, {name: f"{error:.1e}" for name, error in report.items()})
    assert max(report.values()) <= ROUNDING


@pytest.mark.newest_torch
@pytest.mark.parametrize("stem", [stem for stem in STEMS if Path(stem).name.startswith("op_")])
def test_operator_is_reproduced_by_the_reference_backend(stem: str) -> None:
    with use_backend("reference"):
        report = run_case(stem)

    assert max(report.values()) <= ROUNDING
