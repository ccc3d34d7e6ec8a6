"""Measurements for people (a table, then what follows from it) and for machines (one JSON file)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visionsparse.benchmark.measure import Record
from visionsparse.errors import ConfigError
from visionsparse.files import write_text

HOW = (
    "Candidates take turns in one process; medians and quartiles over rounds. speed: times as fast as the baseline. "
    "times_ours: its time as a multiple of ours. peak_memory_mib: above the inputs, outputs and gradients included. "
    "roofline_fraction: least time for the case's FLOPs (2 a multiply-add) and bytes over the median. "
    "cpu_share: CPU time over wall time and threads; clearly below 1, other work ran beside it (or it waited)."
)


def write_json(path: Path, facts: dict[str, Any], records: Sequence[Record], complete: bool) -> None:
    """One object: the facts, whether all that was asked for is in it, the records.

    Raises:
        ConfigError: the file can't be written.
    """
    content = {**facts, "complete": complete, "how": HOW, "results": list(records)}
    try:
        write_text(path, json.dumps(_rounded(content), indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"--json {path}: can't be written: {error.strerror}. Choose another file.") from error


def _rounded(value: Any) -> Any:
    """Floats to five digits: more is noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


_COLUMNS = (  # title, what a record has for it
    ("case", lambda r: r.get("case", r.get("what"))),
    ("candidate", lambda r: r.get("candidate", f"{r['workers']} workers" if "workers" in r else "")),
    ("pass", lambda r: r.get("pass")),
    ("dtype", lambda r: r.get("dtype")),
    ("threads", lambda r: r["threads"]),
    ("median ms", lambda r: _ms(r["median_ms"])),
    ("quartiles", lambda r: " to ".join(map(_ms, r["quartiles_ms"]))),
    ("rounds", lambda r: r["rounds"]),
    ("images/s", lambda r: _number(r, "images_per_s", ".1f")),
    ("speed", lambda r: _number(r, "speed", ".2f")),
    ("of 1/density", lambda r: "" if _share(r) is None else f"{_share(r):.2f}"),
    ("x ours", lambda r: _number(r, "times_ours", ".2f")),
    ("peak MiB", lambda r: _number(r, "peak_memory_mib", ".1f")),
    ("checkpoint MiB", lambda r: _number(r, "checkpoint_mib", ".2f")),
    ("of roofline", lambda r: _number(r, "roofline_fraction", ".2f")),
    ("cpu share", lambda r: _number(r, "cpu_share", ".2f")),
)


def print_table(records: Sequence[Record]) -> None:
    """A row a record; columns that none of them has are left out."""
    rows = [[str(cell(record) or "") for _, cell in _COLUMNS] for record in records]
    used = [column for column in range(len(_COLUMNS)) if any(row[column] for row in rows)]
    print_rows([_COLUMNS[column][0] for column in used], [[row[column] for column in used] for row in rows], left=3)


def print_rows(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table whose first `left` columns are text."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=220)  # a file or a pipe has no width: nothing is cut
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index < left else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)


def conclusions(records: Sequence[Record]) -> Iterator[str]:
    """What follows from the records: break-even densities, and whether the machine was busy."""
    lines: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if "block" in record and record.get("speed"):
            key = tuple(record.get(name) for name in ("op", "tokens", "block", "pass", "dtype", "threads", "candidate"))
            lines.setdefault(key, []).append(record)
    for (op, tokens, block, passes, dtype, threads, candidate), points in lines.items():
        if len(points) > 1:
            density = break_even([(point["density"], 1 / point["speed"]) for point in points])
            where = f"{op}, {tokens} tokens, blocks of {block}, {passes}, {dtype}, threads: {threads}, {candidate}"
            yield f"break-even with {points[0]['baseline']}: {where}: {density}"
    busy = [record for record in records if record["cpu_share"] < 0.9 and "candidate" in record]
    if busy and not any(record.get("device") == "cuda" for record in busy):
        yield f"{len(busy)} of {len(records)} had less than 0.9 of their threads' CPU time: was the machine busy?"


def break_even(points: Sequence[tuple[float, float]]) -> str:
    """The density at which a time is 1, by straight lines between (density, time); past them, as far as 1, by the last
    line, and said so."""
    points = sorted(points)
    if points[0][1] >= 1:
        return f"below {points[0][0]:.3g}"
    for (low, time_low), (high, time_high) in itertools.pairwise(points):
        if time_high >= 1:
            return f"{low + (high - low) * (1 - time_low) / (time_high - time_low):.2f}"
    (low, time_low), (high, time_high) = points[-2:]
    slope = (time_high - time_low) / (high - low)
    reached = high + (1 - time_high) / slope if slope > 0 else 1.0
    return f"{min(reached, 1):.2f} (extrapolated from {low:.3g} and {high:.3g})"


def _share(record: Record) -> float | None:
    """Of the speed that the density promises over dense attention."""
    if "block" not in record or not record.get("speed"):
        return None
    return record["speed"] * record["density"]


def _ms(value: float) -> str:
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def _number(record: Record, key: str, form: str) -> str:
    return "" if record.get(key) is None else format(record[key], form)
