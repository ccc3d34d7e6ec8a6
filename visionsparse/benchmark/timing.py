"""Times calls in turn: A B C, A B C, ... in one process, so that what disturbs the machine disturbs all alike.

A round calls every candidate once (a short one often enough to fill 50 ms) and gives one time each: wall time on CPU,
CUDA events on a GPU. Before what is timed, a call of less than a second is made once uncounted: the caches and the
memory that malloc holds are then as the candidate itself leaves them. Else it pays for giving back what the one before
freed, on CPU up to half of its time. Reported are the median and the quartiles over the rounds. What share of the
threads' time the process was on a CPU tells whether it had the machine for itself.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from visionsparse.benchmark.plan import Call

MIN_SAMPLE, LONG = 0.05, 1.0  # seconds: of a sample; of a call that is measured as it comes
MIN_ROUNDS, MAX_ROUNDS = 3, 50


class Timing(NamedTuple):
    seconds: Sequence[float]  # of one call, a round each
    cpu_seconds: Sequence[float]  # of the whole process meanwhile

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def interleaved(
    calls: Mapping[str, Call],
    device: torch.device,
    *,
    seconds: float,
    rounds: int | None = None,
    after_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Timing]:
    """Times warmed-up calls in turn.

    Args:
        seconds: for all rounds together; there are at least 3 rounds and at most 50.
        rounds: this many, whatever they take.
        after_round: called with the rounds done and their number.
    """
    looks = {name: sample(call, 1, device) for name, call in calls.items()}
    repeats = {name: max(1, math.ceil(MIN_SAMPLE / max(look[0], 1e-7))) for name, look in looks.items()}
    long = {name for name, look in looks.items() if look[0] >= LONG}
    one_round = sum(looks[name][0] * (repeats[name] + (name not in long)) for name in calls)
    total = rounds or min(MAX_ROUNDS, max(MIN_ROUNDS, int(seconds / max(one_round, 1e-7))))
    # The first look at a long call is as good as any: it is one of its rounds.
    samples = {name: [look] if name in long else [] for name, look in looks.items()}
    for done in range(1, total + 1):
        for name, call in calls.items():
            if len(samples[name]) < total:
                if name not in long:
                    call()
                samples[name].append(sample(call, repeats[name], device))
        after_round(done, total)
    return {name: Timing(*zip(*taken, strict=True)) for name, taken in samples.items()}


def sample(call: Call, repeats: int, device: torch.device) -> tuple[float, float]:
    """(wall or GPU seconds, the process's CPU seconds) of one call, the mean of `repeats`."""
    cpu = time.process_time()
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        taken = start.elapsed_time(end) / 1000
    else:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        taken = time.perf_counter() - begin
    return taken / repeats, (time.process_time() - cpu) / repeats
