"""Peak memory of a call above what was there before it: what it returns, what it keeps and what it needs meanwhile.

GPU: the peak of torch's allocator. CPU: torch's profiler records every allocation and release by torch's allocator,
those inside an operator too; they are added up in their order. What a library takes past that allocator (MKL's and
oneDNN's own scratch space) is not seen, nor what the process's resident memory does.
"""

from __future__ import annotations

import gc
import itertools
import os

import torch

from visionsparse.benchmark.plan import Call


def peak_memory(call: Call, device: torch.device) -> int:
    """Bytes at the peak of one call. The call is run once."""
    collects = gc.isenabled()
    gc.disable()  # else an earlier call's rest may be released in this one
    try:
        return _on_gpu(call, device) if device.type == "cuda" else _on_cpu(call)
    finally:
        if collects:
            gc.enable()


def _on_gpu(call: Call, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _on_cpu(call: Call) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else its first use says on stderr that there is no GPU
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        call()
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0))
