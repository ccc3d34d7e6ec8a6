"""Tests of the scripts in benchmarks/ that take calls from the benchmark by name."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/profile_cores.py"


def test_what_two_threads_are_timed_on_are_calls_of_the_benchmark() -> None:
    script = runpy.run_path(str(SCRIPT))
    assert len(script["calls"]()) == len(script["CALLS"]) + 1  # a matmul
