"""Compile every GPU kernel ahead of time (no GPU needed) and check what it became.

Prints a table for each op: registers, shared memory, spills, the layout of every product, estimated occupancy, and the
roofline time of a stated shape. Exits with 1 on a spill (heads wider than 128 excepted), on shared memory over the
chip's limit, or on a product without tensor cores (ieee float32 excepted, which has none).

    visionsparse inspect-kernels
    visionsparse inspect-kernels --op block_sparse_attention --chip 90 --dtype bf16 --width 64
    visionsparse inspect-kernels --output benchmarks/kernels.md
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from visionsparse.cli import Parser, run
from visionsparse.errors import UserError

DTYPES = ("bf16", "fp16", "tf32", "ieee")


def main(argv: Sequence[str] | None = None) -> None:
    """Compiles, prints the tables, and exits with 1 where a rule is broken."""
    parser = Parser(prog="visionsparse inspect-kernels", description=__doc__)
    parser.add_argument("--op", nargs="+", help="cases whose name starts so (default: all)")
    parser.add_argument("--chip", nargs="+", type=int, choices=(80, 90), default=[80, 90], help="compute capability")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), help="tf32, ieee: float32")
    parser.add_argument("--width", nargs="+", type=int, help="head widths (default: the cases' own)")
    parser.add_argument("--output", type=Path, help="also write the tables here, as markdown")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile")
    options = parser.parse_args(argv)

    from visionsparse.files import write_text
    from visionsparse.ops.triton.kernel_cases import cases
    from visionsparse.ops.triton.kernel_table import inspect_all, report, wanted

    names = [name for name in cases() if not options.op or name.startswith(tuple(options.op))]
    if not names:
        raise UserError(f"--op {' '.join(options.op)}: no such op. Known: {', '.join(cases())}.")
    kernels = wanted(names, options.chip, options.dtype, options.width)
    if not kernels:
        raise UserError(f"{', '.join(names)}: not inspected at this --dtype and --width. Leave one of them out.")
    rows = inspect_all(kernels, options.jobs)
    text = "\n".join(report(rows))
    print(text)
    if options.output:
        write_text(options.output, text + "\n")
    problems = [problem for row in rows for problem in row.problems]
    for problem in problems:
        print(f"visionsparse: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
