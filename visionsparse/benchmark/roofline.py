"""What this machine does at most: by data sheet for the GPUs that are known, else by a large matmul and a copy."""

from __future__ import annotations

import torch

from visionsparse.benchmark.plan import Call
from visionsparse.benchmark.processes import threads
from visionsparse.benchmark.timing import sample
from visionsparse.ops.cost import PEAKS, Peaks

ARITHMETIC = {torch.bfloat16: "half", torch.float16: "half", torch.float32: "ieee"}
_SIDE = 1024  # of the matmul
_BYTES = 64 * 2**20  # of the copy: past the cache of a core


def arithmetic_of(dtype: torch.dtype, device: torch.device) -> str:
    """The kind of products that torch makes of a dtype there."""
    if dtype == torch.float32 and device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return ARITHMETIC[dtype]


def peaks_here(device: torch.device, dtype: torch.dtype, num_threads: int) -> Peaks:
    """Of this device; on a CPU those of that many threads. Takes a fraction of a second where it has to measure."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if (known := PEAKS.get(10 * major + minor)) is not None:
            return known
    with threads(num_threads), torch.no_grad():
        a, b = torch.randn(2, _SIDE, _SIDE, device=device).to(dtype)
        source = torch.ones(_BYTES // 4, device=device)
        target = source.clone()
        multiply = _seconds(lambda: torch.mm(a, b), device)
        copy = _seconds(lambda: target.copy_(source), device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{num_threads} threads here, measured"
    return Peaks(name, {arithmetic_of(dtype, device): 2 * _SIDE**3 / multiply}, 2 * _BYTES / copy)


def _seconds(call: Call, device: torch.device) -> float:
    call()
    return min(sample(call, 2, device)[0] for _ in range(5))
