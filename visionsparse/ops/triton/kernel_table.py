"""Every kernel of every case, compiled ahead of time: rows of figures, and a table of them as markdown."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton

from visionsparse.errors import UserError
from visionsparse.ops.cost import PEAKS, Cost
from visionsparse.ops.triton import attention
from visionsparse.ops.triton.inspection import Compiled, compile_for
from visionsparse.ops.triton.kernel_cases import KERNELS, WIDTHS, Case, cases, launches
from visionsparse.ops.triton.target import Target
from visionsparse.ops.triton.tiles import Tile, choose_tile

ARITHMETIC = {"bf16": "half", "fp16": "half", "tf32": "tf32", "ieee": "ieee"}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "ieee": torch.float32}


class Wanted(NamedTuple):
    case: str
    kernel: str
    capability: int
    dtype: str
    width: int


class Row(NamedTuple):
    what: Wanted
    tile: Tile
    compiled: Compiled
    cost: Cost
    live_own: float  # share of a tile's rows, and of the rows that it lists, that are tokens and not padding
    live_listed: float

    @property
    def roofline(self) -> float:
        return PEAKS[self.what.capability].seconds(ARITHMETIC[self.what.dtype], self.cost)

    @property
    def problems(self) -> list[str]:
        case, kernel, capability, dtype, width = self.what
        where = f"{case} {kernel}, sm_{capability}, {dtype}, width {width}"
        found = self.compiled.problems(capability, ARITHMETIC[dtype], width)
        return [f"{where}: {problem}" for problem in found]


def wanted(
    names: Sequence[str], capabilities: Sequence[int], dtypes: Sequence[str], widths: Sequence[int] | None
) -> list[Wanted]:
    """The kernels of the cases of these names; a case that is for one dtype and width is left out at others."""
    return [
        Wanted(name, kernel, capability, dtype, width)
        for name in names
        for kernel in KERNELS
        for capability in capabilities
        for dtype in dtypes
        if dtype in cases()[name].dtypes
        for width in _widths(cases()[name], widths)
    ]


def _widths(case: Case, widths: Sequence[int] | None) -> Sequence[int]:
    if widths is None:
        return case.widths
    return widths if case.widths == WIDTHS else [width for width in widths if width in case.widths]


def inspect_all(kernels: Sequence[Wanted], jobs: int) -> list[Row]:
    """Compile them, in so many processes."""
    if jobs == 1 or len(kernels) == 1:
        return [inspect(what) for what in kernels]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        return pool.map(inspect, kernels, chunksize=1)


def inspect(what: Wanted) -> Row:
    """Compile one kernel of a case."""
    if attention.INTERPRETED:
        raise UserError("TRITON_INTERPRET=1 is set, under which nothing is compiled: unset it.")
    case, dtype = cases()[what.case], _DTYPES[what.dtype]
    inputs = case.build(what.width, dtype)
    precision = what.dtype if what.dtype == "ieee" else "tf32"
    launch = launches(inputs, Target(what.capability, precision))[what.kernel]
    own = inputs.inverted if what.kernel == "backward_keys" else inputs.address
    return Row(
        what,
        launch.tile,
        compile_for(launch, what.capability),
        case.size(what.width).cost(what.kernel, dtype.itemsize),
        *live_lanes(own.tokens, case.list_length, launch.tile),
    )


def live_lanes(tokens: int, list_length: int, tile: Tile) -> tuple[float, float]:
    """Of the rows that a group's tiles have, and of those that they list, the share that is not padding."""
    return tokens / (-(-tokens // tile.own) * tile.own), list_length / (-(-list_length // tile.listed) * tile.listed)


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: one table a case, the lanes of BiFormer's stages, the summary as the last line."""
    yield "# GPU kernels, compiled ahead of time"
    yield ""
    yield f"By `visionsparse inspect-kernels`, Triton {triton.__version__}, no GPU: nothing here was timed."
    yield "FLOPs are 2 a multiply-add; bytes count each input read once and each output written once. The roofline is"
    yield "the larger of FLOPs / peak and bytes / bandwidth, a bound on every implementation, for:"
    yield "; ".join(
        f"{chip.name} (sm_{capability}) {', '.join(f'{kind} {peak / 1e12:g}' for kind, peak in chip.flops.items())}"
        f" TFLOP/s, {chip.bandwidth / 1e12:g} TB/s"
        for capability, chip in PEAKS.items()
    )
    yield "(half: bf16 and fp16; tf32, ieee: float32 with and without torch's leave to use tf32)."
    yield "Tile: own rows x listed rows, warps, stages. Live: share of own x of listed rows that are no padding."
    for case in cases().values():
        mine = [row for row in rows if row.what.case == case.name]
        if mine:
            yield from _table(case, mine)
    yield from _stages()
    spills, broken = sum(row.compiled.spills for row in rows), sum(len(row.problems) for row in rows)
    products = [dot for row in rows if row.what.dtype != "ieee" for dot in row.compiled.dots]
    on_cores = sum(dot.startswith("mma") for dot in products)
    yield ""
    yield (
        f"{len(rows)} kernels, {spills} spills, {on_cores} of {len(products)} products on tensor cores"
        f" (ieee float32 apart), {broken} rules broken"
    )


def _table(case: Case, rows: Sequence[Row]) -> Iterator[str]:
    yield ""
    yield f"## {case.name}"
    yield ""
    yield case.shape
    yield ""
    yield (
        "| kernel | chip | dtype | width | tile | registers | stack | shared KiB | spills | products | occupancy |"
        " live | GFLOP | MB | roofline µs |"
    )
    yield "| --- | --- | --- " + "| ---: " * 1 + "| --- " + "| ---: " * 4 + "| --- " + "| ---: " * 5 + "|"
    for row in rows:
        what, tile, made = row.what, row.tile, row.compiled
        layouts = " ".join(f"{made.dots.count(layout)} x {layout}" for layout in dict.fromkeys(made.dots))
        yield (
            f"| {what.kernel} | sm_{what.capability} | {what.dtype} | {what.width} | {tile.own} x {tile.listed},"
            f" {tile.num_warps}, {tile.num_stages} | {made.registers} | {made.stack} | {made.shared / 1024:.0f} |"
            f" {made.spills} | {layouts} | {made.occupancy(what.capability, tile.num_warps):.0%} |"
            f" {row.live_own:.0%} x {row.live_listed:.0%} | {row.cost.flops / 1e9:.2f} |"
            f" {row.cost.num_bytes / 1e6:.1f} | {row.roofline * 1e6:.1f} |"
        )


def _stages() -> Iterator[str]:
    """How full the tiles are where regions are small."""
    yield ""
    yield "## Live lanes of routed tiles at BiFormer's stages (224 px, bf16, width 32, sm_80)"
    yield ""
    yield "| map | region tokens | topk | " + " | ".join(KERNELS) + " |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    x = torch.empty(1, 1, 1, 32, dtype=torch.bfloat16, device="meta")
    for size, topk in ((56, 1), (28, 4), (14, 16)):
        tokens = (size // 7) ** 2
        shares = []
        for kernel in KERNELS:
            tile = choose_tile(kernel, x, x, Target(80, "tf32"), tokens, tokens * topk)
            own, listed = live_lanes(tokens, tokens * topk, tile)
            shares.append(f"{own:.0%} x {listed:.0%}")
        yield f"| {size} x {size} | {tokens} | {topk} | {' | '.join(shares)} |"
