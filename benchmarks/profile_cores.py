"""What two threads lose where the host of a virtual machine puts its two CPUs far apart.

A cache line's way there and back between the CPUs is taken before and after each turn of the calls; their medians are
printed apart for turns with near and with far ones. The host may move them at any time: leave it running for minutes.

OMP_NUM_THREADS=2 python benchmarks/profile_cores.py --seconds 300
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import time
from collections.abc import Callable, Iterable

import torch

from visionsparse.benchmark import block_sparse_attention, routed_attention
from visionsparse.benchmark.machine import describe
from visionsparse.benchmark.timing import sample

CPU = torch.device("cpu")
FAR = 1.5  # times the shortest way that was seen
TRIPS = 5000


def round_trip(cpus: Iterable[int]) -> float:
    """Nanoseconds that a byte takes to another CPU and back, by Python's loops, which take about 200 of them."""
    memory, ping, pong = mmap.mmap(-1, mmap.PAGESIZE), 0, 128  # shared with the child; two cache lines
    own, other = sorted(cpus)[:2]
    allowed = os.sched_getaffinity(0)
    child = os.fork()
    os.sched_setaffinity(0, {own if child else other})
    begin = 0.0
    for trip in range(TRIPS):
        if trip == TRIPS // 2:  # both are there by now
            begin = time.perf_counter()
        count = trip % 255 + 1
        if child:
            memory[ping] = count
        while memory[pong if child else ping] != count:
            pass
        if not child:
            memory[pong] = count
    taken = time.perf_counter() - begin
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    os.sched_setaffinity(0, allowed)
    return taken / (TRIPS - TRIPS // 2) * 1e9


ROUTED = "visionsparse torch", "index_select + bmm"
CALLS = (
    *((routed_attention, case.name, name, True) for case in routed_attention.CASES for name in ROUTED),
    (block_sparse_attention, "4k/64/0.1", "visionsparse torch", True),
    (block_sparse_attention, "4k/64/0.1", "visionsparse torch", False),
    (block_sparse_attention, "4k/dense", "dense SDPA", False),
)


def calls() -> dict[str, Callable[[], object]]:
    """This library's calls beside others, and a matmul, whose threads share little."""
    a = torch.randn(1536, 1536)
    found: dict[str, Callable[[], object]] = {"matmul of 1,536 x 1,536": lambda: a @ a}
    for module, case, name, backward in CALLS:
        size = next(one for one in module.CASES if one.name == case.split("/")[0])
        for candidate in module.candidates(size, CPU, torch.float32, backward):
            if (candidate.case, candidate.name) == (case, name):
                found[f"{case}, {name}, {'forward+backward' if backward else 'forward'}"] = candidate.prepare()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    end = time.monotonic() + parser.parse_args().seconds
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("this process may run on one CPU only: there is no other to be far from")
    print({**describe(CPU), "threads": torch.get_num_threads()})
    timed, turns = calls(), []
    while time.monotonic() < end:
        for name, call in timed.items():
            call()
            before = round_trip(os.sched_getaffinity(0))
            taken, _ = sample(call, 5, CPU)
            turns.append((name, taken * 1e3, before, round_trip(os.sched_getaffinity(0))))
    limit = FAR * min(min(ways) for _, _, *ways in turns)
    near = [turn for turn in turns if max(turn[2:]) < limit]
    far = [turn for turn in turns if min(turn[2:]) >= limit]
    for title, part in (("near", near), ("far", far)):
        ways = [way for _, _, *both in part for way in both]
        print(f"{title}: {len(part)} turns" + (f", {statistics.median(ways):.0f} ns there and back" if ways else ""))
    for name in timed:
        taken = [[turn[1] for turn in part if turn[0] == name] for part in (near, far)]
        print(*(f"{statistics.median(times):8.1f} ms" if times else "       - ms" for times in taken), f" {name}")


if __name__ == "__main__":
    main()
