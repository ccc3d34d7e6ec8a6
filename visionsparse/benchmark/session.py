"""What `visionsparse benchmark` does once its flags are read: plan, measure, show, keep."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from visionsparse.benchmark.machine import describe
from visionsparse.benchmark.measure import Record, measure
from visionsparse.benchmark.models import model_groups
from visionsparse.benchmark.ops import op_groups
from visionsparse.benchmark.plan import Group
from visionsparse.benchmark.processes import with_threads
from visionsparse.benchmark.progress import progress
from visionsparse.benchmark.report import conclusions, print_rows, print_table, write_json
from visionsparse.benchmark.roofline import peaks_here
from visionsparse.cli import key_value_pairs
from visionsparse.engine.device import choose_device
from visionsparse.errors import ConfigError
from visionsparse.ops.cost import PEAKS


def ops(arguments: Any) -> None:
    """`visionsparse benchmark ops`."""
    groups = _groups(arguments, arguments.threads)  # what can't be measured is refused before anything is
    if arguments.dry_run:
        _dry_run(groups)
        return
    if arguments.plot:
        from visionsparse.visualization.densities import draw_densities
        from visionsparse.visualization.figure import check_format

        check_format(arguments.plot)  # before an hour has passed
    records = _keep(arguments, _measure)
    if arguments.plot:
        print(f"plot: {draw_densities(records, arguments.plot)}")


def models(arguments: Any) -> None:
    """`visionsparse benchmark models`."""
    groups = _groups(arguments, arguments.threads)
    if arguments.dry_run:
        _dry_run(groups)
        return
    _keep(arguments, _measure)


def training(arguments: Any) -> None:
    """`visionsparse benchmark training`."""
    _keep(arguments, _measure_training)


def _groups(arguments: Any, threads: Sequence[int]) -> list[Group]:
    device = choose_device(arguments.device)
    if arguments.what == "models":
        return model_groups(
            arguments.names,
            device,
            image_size=arguments.image_size,
            batch_sizes=arguments.batch_size,
            threads=threads,
        )
    return op_groups(
        arguments.op,
        device,
        cases=arguments.case,
        candidates=arguments.candidate,
        threads=threads,
        dtypes=arguments.dtype,
        forward_only=arguments.forward_only,
    )


def _measure(arguments: Any, threads: int) -> Iterator[list[Record]]:
    groups, peaks = _groups(arguments, [threads]), functools.cache(peaks_here)
    with progress(len(groups)) as step:
        for group in groups:
            dtype = getattr(torch, group.setting["dtype"])
            yield measure(
                group,
                seconds=arguments.seconds,
                rounds=arguments.rounds,
                peaks=peaks(group.device, dtype, group.threads),
                say=lambda line: print(line, file=sys.stderr),
                step=functools.partial(step, group.name),
            )


def _measure_training(arguments: Any, threads: int) -> Iterator[list[Record]]:
    from visionsparse.benchmark.training import measure_training

    rounds = arguments.rounds or 3
    with progress(len(arguments.workers) * rounds) as step:
        yield measure_training(
            arguments.config,
            choose_device(arguments.device),
            workers=arguments.workers,
            rounds=rounds,
            options=key_value_pairs(arguments.cfg_options),
            step=step,
        )


def _keep(arguments: Any, produce: Callable[[Any, int], Iterator[list[Record]]]) -> list[Record]:
    """What `produce` gives for every number of threads, shown at the end and written after every part; Ctrl-C ends it
    and loses no part."""
    facts = {"command": arguments.command, **describe(choose_device(arguments.device))}
    path: Path | None = arguments.json
    records: list[Record] = []
    complete = False

    def write() -> None:
        if path:
            write_json(path, facts, records, complete)

    write()  # a place that can't be written is told before an hour has passed
    try:
        for number in arguments.threads:
            for found in with_threads(number, produce, arguments, number):
                records += found
                write()
        complete = True
    finally:
        if records:
            print_table(records)
            for line in conclusions(records):
                print(line)
        write()
    if not records:
        raise ConfigError("nothing could be measured here: the lines above say why.")
    if path:
        print(f"json: {path}")
    return records


def _dry_run(groups: Sequence[Group]) -> None:
    """What would be measured. Nothing of it is run; of this machine, a matmul and a copy are."""
    peaks = functools.cache(peaks_here)
    rows = []
    for group in groups:
        here = peaks(group.device, getattr(torch, group.setting["dtype"]), group.threads)
        for candidate in group.candidates:
            row = [group.name, candidate.case, candidate.name]
            if candidate.cost:
                times = [chip.seconds(group.arithmetic, candidate.cost) for chip in PEAKS.values()]
                times.append(here.seconds(group.arithmetic, candidate.cost))
                row += [f"{candidate.cost.flops / 1e9:.2f}", f"{candidate.cost.num_bytes / 1e6:.1f}"]
                row += [f"{1e3 * seconds:.3g}" for seconds in times]
            rows.append([*row, "left out: " + candidate.why_not if candidate.why_not else ""])
    titles = ["group", "case", "candidate"]
    if groups[0].candidates[0].cost:
        titles += ["GFLOP", "MB", *(f"{chip.name} ms" for chip in PEAKS.values()), "here ms"]
    print_rows([*titles, ""], rows, left=3)
    if groups[0].candidates[0].cost:
        print("ms: the roofline, the least time that any implementation takes. FLOPs are 2 a multiply-add.")
