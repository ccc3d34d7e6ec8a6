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

import torch

from visionsparse.benchmark.machine import describe
from visionsparse.benchmark.ops import op_groups
from visionsparse.benchmark.plan import Call
from visionsparse.benchmark.timing import sample

CPU = torch.device("cpu")
FAR = 1.5  # times the shortest way that was seen
TRIPS = 5000
CASES = ("stage 1", "stage 2", "stage 3", "64 x 64", "4k/64/0.1")


def round_trip() -> float:
    """Nanoseconds that a byte takes to another CPU and back, by Python's loops, which take about 200 of them."""
    memory, ping, pong = mmap.mmap(-1, mmap.PAGESIZE), 0, 128  # shared with the child; two cache lines
    allowed = os.sched_getaffinity(0)
    own, other = sorted(allowed)[:2]
    if os.fork() == 0:
        os.sched_setaffinity(0, {other})
        for trip in range(TRIPS):
            while memory[ping] != trip % 255 + 1:
                pass
            memory[pong] = trip % 255 + 1
        os._exit(0)
    os.sched_setaffinity(0, {own})
    begin = 0.0
    for trip in range(TRIPS):
        if trip == TRIPS // 2:  # both are there by now
            begin = time.perf_counter()
        memory[ping] = trip % 255 + 1
        while memory[pong] != trip % 255 + 1:
            pass
    taken = time.perf_counter() - begin
    os.wait()
    os.sched_setaffinity(0, allowed)
    return taken / (TRIPS - TRIPS // 2) * 1e9


def calls() -> dict[str, Call]:
    """This library's calls and what they are measured against, and a matmul, whose threads share little."""
    a = torch.randn(1536, 1536)
    found: dict[str, Call] = {"matmul of 1,536 x 1,536": lambda: a @ a}
    for group in op_groups((), CPU, cases=CASES, candidates=("visionsparse torch",)):
        for candidate in group.candidates:
            found[f"{candidate.case}, {candidate.name}, {group.setting['pass']}"] = candidate.prepare()
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
            before = round_trip()
            taken, _ = sample(call, 5, CPU)
            turns.append((name, taken * 1e3, before, round_trip()))
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
