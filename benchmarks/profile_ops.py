"""What the ops' time goes into on CPU, beside what a large matmul reaches.

OMP_NUM_THREADS=1 python benchmarks/profile_ops.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from visionsparse.benchmark import block_sparse_attention, routed_attention
from visionsparse.benchmark.machine import describe

CALLS, ROWS = 10, 6


def show(title: str, call: Callable[[], object]) -> None:
    """Prints the operators that take most of a call, milliseconds each; a shorter form of torch's own table."""
    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        for _ in range(CALLS):
            call()
    found = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in found)
    print(f"\n{title}: {total / CALLS / 1e3:.1f} ms")
    for event in found[:ROWS]:
        taken = event.self_cpu_time_total
        print(f"  {taken / CALLS / 1e3:8.2f} ms  {taken / total:4.0%}  {event.count // CALLS:4d} calls  {event.key}")


def main() -> None:
    cpu = torch.device("cpu")
    print({**describe(cpu), "threads": torch.get_num_threads()})
    a = torch.randn(2048, 2048)
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begin)
    print(f"matmul of 2,048 x 2,048: {2 * 2048**3 / min(seconds) / 1e9:.0f} GFLOP/s")
    for module, case, candidate, backward in (
        (block_sparse_attention, "8k/64/0.25", "visionsparse torch", False),
        (routed_attention, "stage 2", "visionsparse torch", True),
        (routed_attention, "stage 2", "index_select + bmm", True),
    ):
        length = next(c for c in module.CASES if case.split("/")[0] == c.name)
        for found in module.candidates(length, cpu, torch.float32, backward):
            if (found.case, found.name) == (case, candidate):
                show(f"{case}, {candidate}, {'forward+backward' if backward else 'forward'}", found.prepare())


if __name__ == "__main__":
    main()
