"""Judges files in a process of their own (tests/fuzz/checkpoint.py): one that died would take the tests with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def judge_each(contents: Mapping[str, bytes], folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each file, by name: its `outcome`, `weights` and `memory`, or that the process died of it."""
    names = list(contents)
    for number, name in enumerate(names):
        (folder / f"{number}.pth").write_bytes(contents[name])
    verdicts: dict[str, dict[str, Any]] = {}
    while len(verdicts) < len(names):
        paths = [str(folder / f"{number}.pth") for number in range(len(verdicts), len(names))]
        command = [sys.executable, "-m", "tests.fuzz.checkpoint", "--each", *paths]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        for line in ran.stdout.splitlines():
            verdict = json.loads(line)
            verdicts[names[int(Path(verdict["file"]).stem)]] = verdict
        if len(verdicts) < len(names):
            verdicts[names[len(verdicts)]] = {"outcome": f"the process died of it ({ran.returncode}): {ran.stderr}"}
    return verdicts
