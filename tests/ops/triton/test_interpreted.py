"""Runs the tests of the Triton kernels, interpreted on CPU, each file in a process of its own.

TRITON_INTERPRET is read when a kernel is decorated, so the variable must be there before the first import.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("interpreted_*.py"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_kernels_pass_their_tests_under_the_interpreter(file: Path) -> None:
    run(file)


@pytest.mark.slow
def test_kernels_pass_their_long_sweep_under_the_interpreter() -> None:
    run(Path(__file__).parent / "interpreted_every_op.py", "-m", "slow")


def run(file: Path, *options: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *options,
        str(file),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)  # s; against hanging
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
