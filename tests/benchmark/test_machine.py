"""Tests of visionsparse.benchmark.machine: what a measurement tells of where it was taken."""

from __future__ import annotations

import pytest
import torch

from visionsparse.benchmark.machine import describe


def test_what_sets_threads_and_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    monkeypatch.setenv("A_SECRET", "not told")
    told = describe(torch.device("cpu"))["environment"]
    assert told["MALLOC_TRIM_THRESHOLD_"] == "1000"
    assert "A_SECRET" not in told
