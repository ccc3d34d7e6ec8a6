"""Takes the measurements of a group: readies its candidates, looks at their memory, times them in turn, compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from visionsparse.benchmark.memory import peak_memory
from visionsparse.benchmark.plan import Call, Candidate, Group
from visionsparse.benchmark.timing import Timing, interleaved
from visionsparse.ops.cost import Peaks

Record = dict[str, Any]


def measure(
    group: Group,
    *,
    seconds: float,
    rounds: int | None = None,
    peaks: Peaks | None = None,
    say: Callable[[str], None] = print,
    step: Callable[[float], None] = lambda share: None,
) -> list[Record]:
    """One record a candidate, in their order; those that can't run are told through `say` and left out.

    Args:
        seconds, rounds: as in `timing.interleaved`.
        peaks: of the device, for the share of the roofline.
        step: told what share of the group is done.
    """
    calls, memory = _ready(group, say)
    if not calls:
        step(1)
        return []
    candidates = {key: candidate for key, candidate in _keyed(group).items() if key in calls}
    timings = interleaved(
        calls, group.device, seconds=seconds, rounds=rounds, after_round=lambda done, total: step(done / total)
    )
    records = [_record(group, candidates[key], timings[key], memory[key], peaks) for key in candidates]
    for record in records:
        for name, other in (("speed", group.baseline), ("times_ours", group.ours)):
            against = _of_case(records, other, record["case"])
            ratio = None if against is None else record["median_ms"] / against["median_ms"]
            record[name] = 1 / ratio if ratio and name == "speed" else ratio
    return records


def _keyed(group: Group) -> dict[str, Candidate]:
    return {f"{candidate.case} {candidate.name}": candidate for candidate in group.candidates}


def _ready(group: Group, say: Callable[[str], None]) -> tuple[dict[str, Call], dict[str, int]]:
    """The calls, each run once, and what memory it took then."""
    calls: dict[str, Call] = {}
    memory: dict[str, int] = {}
    left_out: dict[str, None] = {}  # in order, each once
    for key, candidate in _keyed(group).items():
        reason = candidate.why_not
        if reason is None:
            try:
                call = candidate.prepare()
                if candidate.compiles:
                    call()
                memory[key] = peak_memory(call, group.device)
                calls[key] = call
                continue
            except Exception as error:
                if not candidate.optional:
                    raise
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        left_out[f"{group.name}: {candidate.name} left out: {reason}"] = None
    for line in left_out:
        say(line)
    return calls, memory


def _record(group: Group, candidate: Candidate, timing: Timing, memory: int, peaks: Peaks | None) -> Record:
    low, high = timing.quartiles
    record = {
        "case": candidate.case,
        "candidate": candidate.name,
        "threads": group.threads,
        **group.setting,
        **candidate.facts,
        "median_ms": 1e3 * timing.median,
        "quartiles_ms": [1e3 * low, 1e3 * high],
        "rounds": len(timing.seconds),
        "cpu_share": sum(timing.cpu_seconds) / sum(timing.seconds) / group.threads,
        "baseline": group.baseline,
        "ours": group.ours,
        "peak_memory_mib": memory / 2**20,
    }
    if candidate.items:
        record["images_per_s"] = candidate.items / timing.median
    if candidate.cost:
        record.update(flops=candidate.cost.flops, bytes=candidate.cost.num_bytes)
        if peaks:
            record["roofline_ms"] = 1e3 * peaks.seconds(group.arithmetic, candidate.cost)
            record["roofline_fraction"] = record["roofline_ms"] / record["median_ms"]
    return record


def _of_case(records: list[Record], name: str, case: str) -> Record | None:
    """The candidate of that name, of the same case or else of a case that all of the group are compared with."""
    named = [record for record in records if record["candidate"] == name]
    return next((record for record in named if record["case"] == case), named[0] if len(named) == 1 else None)
