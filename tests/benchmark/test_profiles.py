"""Tests of the scripts in benchmarks/ that take calls from the benchmark by name."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/profile_cores.py"


def test_what_two_threads_are_timed_on_are_cases_of_the_benchmark() -> None:
    script = runpy.run_path(str(SCRIPT))
    timed = list(script["calls"]())
    for case in script["CASES"]:
        for passes in ("forward", "forward+backward"):
            assert f"{case}, visionsparse torch, {passes}" in timed
