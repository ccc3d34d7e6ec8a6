"""What is to be measured, as data: groups of candidates whose calls are timed in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from visionsparse.ops.cost import Cost

Call = Callable[[], object]


class Candidate(NamedTuple):
    """One way to compute a case."""

    name: str
    case: str
    prepare: Callable[[], Call]  # does what is not measured and gives the call that is
    facts: dict[str, Any]  # go into its record: shape, density, ...
    cost: Cost | None = None
    items: int | None = None  # images a call, where speed is told as images/s
    why_not: str | None = None  # a sentence where it can't run here
    compiles: bool = False  # at its first call, which then is not measured
    optional: bool = False  # someone else's: an error skips it and is told


class Group(NamedTuple):
    """Candidates that take turns, under one setting."""

    name: str
    candidates: list[Candidate]
    baseline: str  # the candidate that speeds are told against
    ours: str  # the candidate that the others' times are told as multiples of
    device: torch.device
    threads: int  # that it is to be measured with: see processes.py
    arithmetic: str = "ieee"  # of the roofline: see ops/cost.py
    setting: dict[str, Any] = {}  # goes into every record: dtype, pass, ...  # noqa: RUF012
