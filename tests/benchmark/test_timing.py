"""How time and memory are taken: in turn, enough of it, and counted as the text says."""

from __future__ import annotations

import pytest
import torch

from visionsparse.benchmark import timing
from visionsparse.benchmark.memory import peak_memory
from visionsparse.benchmark.timing import Timing, interleaved

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass only when a call lets them."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "process_time", lambda: now[0] / 2)
    return now


def calls(clock: list[float], order: list[str], **seconds: float):
    def call(name: str, taken: float):
        def run() -> None:
            order.append(name)
            clock[0] += taken

        return run

    return {name: call(name, taken) for name, taken in seconds.items()}


def test_candidates_take_turns(clock: list[float]) -> None:
    order: list[str] = []
    taken = interleaved(calls(clock, order, a=1.0, b=2.0, c=3.0), CPU, seconds=0, rounds=4)
    assert "".join(order) == "abc" * 4  # the first look at a long call is its first round
    assert [len(timing.seconds) for timing in taken.values()] == [4, 4, 4]
    assert [timing.median for timing in taken.values()] == pytest.approx([1, 2, 3])
    assert sum(taken["a"].cpu_seconds) / sum(taken["a"].seconds) == pytest.approx(0.5)


def test_a_short_call_is_repeated_until_the_clock_can_tell(clock: list[float]) -> None:
    order: list[str] = []
    taken = interleaved(calls(clock, order, short=0.001, long=2.0), CPU, seconds=0, rounds=3)
    assert taken["short"].median == pytest.approx(0.001)
    assert order.count("long") == 3
    assert order.count("short") in (154, 157)  # a look, then 1 and 50 (or 51, by rounding) a round


@pytest.mark.parametrize("seconds", [0.001, 0.1])
def test_what_the_candidate_before_left_behind_is_not_counted(clock: list[float], seconds: float) -> None:
    last: list[str] = []

    def call(name: str) -> None:
        clock[0] += seconds if last[-1:] == [name] else 2 * seconds  # slow where another one was before it
        last.append(name)

    taken = interleaved({name: lambda name=name: call(name) for name in "ab"}, CPU, seconds=0, rounds=5)
    assert [timing.median for timing in taken.values()] == pytest.approx([seconds, seconds])


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 3), (10, 10), (1000, 50)])
def test_rounds_fill_the_time_but_for_three_at_least_and_fifty_at_most(
    clock: list[float], seconds: float, rounds: int
) -> None:
    taken = interleaved(calls(clock, [], a=0.25, b=0.25), CPU, seconds=seconds)  # each twice a round, one uncounted
    assert len(taken["a"].seconds) == rounds


def test_median_and_quartiles() -> None:
    taken = Timing([5.0, 1.0, 3.0, 2.0, 4.0], [1.0] * 5)
    assert (taken.median, taken.quartiles) == (3, (2, 4))
    assert Timing([7.0], [1.0]).quartiles == (7, 7)


def test_peak_memory_counts_what_an_operator_takes_and_gives_back() -> None:
    x = torch.ones(1000, 1000)
    mib = peak_memory(lambda: (x + 1) * (x + 2), CPU) / x.nbytes
    assert mib == pytest.approx(3, abs=0.01)  # two sums and their product, at once


def test_peak_memory_is_not_what_was_there_before() -> None:
    held = [torch.ones(1000, 1000)]
    assert peak_memory(held.clear, CPU) == 0
    assert peak_memory(lambda: torch.ones(1000, 1000).sum(), CPU) == pytest.approx(4e6, rel=0.01)
