"""`visionsparse benchmark ops`: every op's cases under the settings that were asked for, as groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence

import torch

from visionsparse.benchmark import block_sparse_attention, routed_attention
from visionsparse.benchmark.plan import Candidate, Group
from visionsparse.benchmark.roofline import arithmetic_of
from visionsparse.errors import ConfigError, did_you_mean

OPS = {"routed_attention": routed_attention, "block_sparse_attention": block_sparse_attention}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def op_groups(
    names: Sequence[str],
    device: torch.device,
    *,
    cases: Sequence[str] = ("*",),
    candidates: Sequence[str] = ("*",),
    threads: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("fp32",),
    forward_only: bool = False,
) -> list[Group]:
    """The groups to measure.

    Args:
        names: ops, all if empty.
        cases, candidates: shell wildcards; of a group with a case that matches, the baseline is always measured.
        dtypes: names of `DTYPES`.

    Raises:
        ConfigError: an unknown op, or nothing matches; says what there is.
    """
    for name in names:
        if name not in OPS:
            raise ConfigError(f"--op {name}: no such op to measure.{did_you_mean(name, OPS)}")
    everything = [
        group
        for name in names or OPS
        for backward in ((False,) if forward_only else (False, True))
        for dtype in dtypes
        for number in threads
        for group in _groups(name, device, DTYPES[dtype], backward, number)
    ]
    found = [kept for group in everything if (kept := _filtered(group, cases, candidates)) is not None]
    if not found:
        known = {which: sorted({getattr(c, which) for g in everything for c in g.candidates}) for which in _FLAGS}
        flags = " and ".join(
            f"{flag} {' '.join(patterns)} (there are {', '.join(known[which])})"
            for (which, flag), patterns in zip(_FLAGS.items(), (cases, candidates), strict=True)
            if tuple(patterns) != ("*",)
        )
        raise ConfigError(f"{flags}: nothing matches. Wildcards need quotes.")
    return found


_FLAGS = {"case": "--case", "name": "--candidate"}


def _groups(name: str, device: torch.device, dtype: torch.dtype, backward: bool, num_threads: int) -> Iterator[Group]:
    op = OPS[name]
    passes = "forward+backward" if backward else "forward"
    kind = str(dtype).removeprefix("torch.")
    where = device.type if device.type == "cuda" else f"{num_threads} thread{'s' * (num_threads > 1)}"
    for case in op.CASES:
        yield Group(
            name=f"{name} {case.name}, {passes}, {kind}, {where}",
            candidates=op.candidates(case, device, dtype, backward),
            baseline=op.BASELINE,
            ours="visionsparse triton" if device.type == "cuda" else "visionsparse torch",
            device=device,
            threads=num_threads,
            arithmetic=arithmetic_of(dtype, device),
            setting={"op": name, "pass": passes, "dtype": kind},
        )


def _filtered(group: Group, cases: Sequence[str], candidates: Sequence[str]) -> Group | None:
    def named(candidate: Candidate) -> bool:
        return any(fnmatch.fnmatchcase(candidate.name, pattern) for pattern in candidates)

    def of_case(candidate: Candidate) -> bool:
        return any(fnmatch.fnmatchcase(candidate.case, pattern) for pattern in cases)

    if not any(named(candidate) and of_case(candidate) for candidate in group.candidates):
        return None
    kept = [
        candidate
        for candidate in group.candidates
        if candidate.name == group.baseline or (named(candidate) and of_case(candidate))
    ]
    return group._replace(candidates=kept)
