"""Tests of visionsparse.benchmark.machine: what a measurement tells of where it was taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from visionsparse.benchmark.machine import cpu_model, describe


def test_what_sets_threads_and_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    monkeypatch.setenv("A_SECRET", "not told")
    told = describe(torch.device("cpu"))["environment"]
    assert told["MALLOC_TRIM_THRESHOLD_"] == "1000"
    assert "A_SECRET" not in told


@pytest.mark.parametrize(
    ("cpuinfo", "told"),
    [
        (
            "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n",
            "AMD EPYC, family 25, model 17",
        ),
        ("processor : 0\nmodel name : Cortex\n", "Cortex"),
    ],
)
def test_a_processor_is_told_by_name_family_and_model(cpuinfo: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo)
    assert cpu_model() == told
