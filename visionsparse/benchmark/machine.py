"""Where, when and with what a measurement was taken."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from visionsparse._version import __version__

_CHECKOUT = Path(__file__).parents[2]
# Of threads and memory: what they set changes the times.
_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "LD_PRELOAD")


def describe(device: torch.device) -> dict[str, Any]:
    """Facts of the machine and the software, plain values."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {
            "visionsparse": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda if device.type == "cuda" else None,
        },
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)},
    }


def cpu_model() -> str:
    """The processor's name, family and model, as Linux tells them: in a cloud the name may be just "AMD EPYC"."""
    try:
        first_core = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return platform.machine()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first_core.splitlines())}
    labels = {"model name": "", "cpu family": "family ", "model": "model "}
    return ", ".join(label + told[key] for key, label in labels.items() if key in told) or platform.machine()


def commit() -> str | None:
    """Of the checkout that the code lies in, "+" where files differ from it; None for an installed package."""
    if not (_CHECKOUT / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(_CHECKOUT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
