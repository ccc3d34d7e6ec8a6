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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from visionsparse.cli import Parser, run
from visionsparse.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from visionsparse.ops.triton.inspection import Compiled
    from visionsparse.ops.triton.launch import Address, Launch, Target
    from visionsparse.ops.triton.tiles import Tile

KERNELS = ("forward", "backward_queries", "backward_keys")
ARITHMETIC = {"bf16": "half", "fp16": "half", "tf32": "tf32", "ieee": "ieee"}
WIDTHS = (32, 64, 128)


class Case(NamedTuple):
    """An op at a shape: its tensors and addresses as functions of head width and dtype."""

    op: str
    shape: str
    build: Callable[[int, Any], tuple[Tensor, Tensor, Address, Address]]  # q, k (v is like k), both sides
    pairs: float  # (query, key) pairs that are computed, over all heads
    list_bytes: int
    list_length: int  # positions in the mean list, of a query group as of a key group


class Row(NamedTuple):
    case: str
    kernel: str
    capability: int
    dtype: str
    width: int
    tile: Tile
    compiled: Compiled
    flops: float
    num_bytes: float
    live_own: float  # share of a tile's rows, and of the rows that it lists, that are tokens and not padding
    live_listed: float

    @property
    def roofline(self) -> float:
        from visionsparse.ops.triton.inspection import CHIPS

        return CHIPS[self.capability].seconds(ARITHMETIC[self.dtype], self.flops, self.num_bytes)

    @property
    def problems(self) -> list[str]:
        where = f"{self.case} {self.kernel}, sm_{self.capability}, {self.dtype}, width {self.width}"
        found = self.compiled.problems(self.capability, ARITHMETIC[self.dtype], self.width)
        return [f"{where}: {problem}" for problem in found]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="visionsparse inspect-kernels", description=__doc__)
    parser.add_argument("--op", nargs="+", help="cases whose name starts so (default: all)")
    parser.add_argument("--chip", nargs="+", type=int, choices=(80, 90), default=[80, 90], help="compute capability")
    parser.add_argument("--dtype", nargs="+", choices=ARITHMETIC, default=list(ARITHMETIC), help="tf32, ieee: float32")
    parser.add_argument("--width", nargs="+", type=int, default=list(WIDTHS), help="head widths")
    parser.add_argument("--output", type=Path, help="also write the tables here, as markdown")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile")
    options = parser.parse_args(argv)
    names = [name for name in cases() if not options.op or name.startswith(tuple(options.op))]
    if not names:
        raise UserError(f"--op {' '.join(options.op)}: no such op. Known: {', '.join(cases())}.")
    wanted = [
        (name, kernel, chip, dtype, width)
        for name in names
        for kernel in KERNELS
        for chip in options.chip
        for dtype in options.dtype
        for width in options.width
    ]
    rows = inspect_all(wanted, options.jobs)
    text = "\n".join(report(rows))
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n")
    problems = [problem for row in rows for problem in row.problems]
    for problem in problems:
        print(f"visionsparse: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


def inspect_all(wanted: list[tuple[Any, ...]], jobs: int) -> list[Row]:
    if jobs == 1 or len(wanted) == 1:
        return [inspect(*what) for what in wanted]
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        return pool.starmap(inspect, wanted, chunksize=1)


def inspect(name: str, kernel: str, capability: int, dtype: str, width: int) -> Row:
    """Compile one kernel of a case."""
    from visionsparse.ops.triton import attention, inspection
    from visionsparse.ops.triton.launch import Target

    if attention.INTERPRETED:
        raise UserError("TRITON_INTERPRET=1 is set, under which nothing is compiled: unset it.")
    import torch

    case = cases()[name]
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype, torch.float32)
    q, k, address, inverted = case.build(width, torch_dtype)
    launch = launches(q, k, address, inverted, Target(capability, dtype if dtype == "ieee" else "tf32"))[kernel]
    products = {"forward": 2, "backward_queries": 3, "backward_keys": 4}[kernel]
    maps = {"forward": (2, 2), "backward_queries": (4, 2), "backward_keys": (2, 4)}[kernel]  # like q, like k
    num_bytes = maps[0] * q.nbytes + maps[1] * k.nbytes + case.list_bytes + q.numel() // width * 4
    compiled = inspection.compile_for(launch, capability)
    flops = 2 * products * case.pairs * width
    live = live_lanes(address.tokens, case.list_length, launch.tile)
    return Row(name, kernel, capability, dtype, width, launch.tile, compiled, flops, num_bytes, *live)


def live_lanes(tokens: int, list_length: int, tile: Tile) -> tuple[float, float]:
    """Of the rows that a group's tiles have, and of those that they list, the share that is not padding."""
    return tokens / (-(-tokens // tile.own) * tile.own), list_length / (-(-list_length // tile.listed) * tile.listed)


def launches(q: Tensor, k: Tensor, address: Address, inverted: Address, target: Target) -> dict[str, Launch]:
    """The three launches of a training step, on meta tensors (B, H, N, D)."""
    import torch

    from visionsparse.ops.triton.launch import backward_keys_launch, backward_queries_launch, forward_launch

    lse = torch.empty(q.shape[:3], device="meta")
    backward = (q, q, k, k)  # grad_out, q, k, v
    return {
        "forward": forward_launch(q, k, k, address, 1.5, q, lse, target),
        "backward_queries": backward_queries_launch(*backward, q, lse, address, 1.5, lse, q, target),
        "backward_keys": backward_keys_launch(*backward, lse, lse, inverted, 1.5, k, k, target),
    }


def cases() -> dict[str, Case]:
    """A new op adds its own here; each kernel of it is then inspected."""
    found = [
        block_sparse(batch=1, heads=8, tokens=8192, block=64, density=0.125),
        block_sparse(batch=1, heads=8, tokens=8192, block=128, density=0.125),
        routed("BiFormer-S, stage 2 at 224 px", batch=8, heads=4, size=28, regions=7, topk=4, weighted=False),
        routed("448 px, stage 1", batch=8, heads=2, size=112, regions=7, topk=4, weighted=True),
    ]
    return {case.op: case for case in found}


def block_sparse(batch: int, heads: int, tokens: int, block: int, density: float) -> Case:
    blocks = tokens // block
    listed = int(blocks * density)

    def build(width: int, dtype: Any) -> tuple[Tensor, Tensor, Address, Address]:
        import torch

        from visionsparse.ops.triton.block_sparse_attention import addresses

        x = torch.empty(batch, heads, tokens, width, dtype=dtype, device="meta")
        counts = torch.empty(1, heads, blocks, dtype=torch.int32, device="meta")
        indices = torch.empty(1, heads, blocks, listed, dtype=torch.int32, device="meta")
        address = addresses(x, x, counts, indices, block, block)
        return x, x, address, address

    return Case(
        f"block_sparse_attention (blocks of {block})",
        f"batch {batch}, {heads} heads, {tokens} tokens, blocks of {block}, density {density:g}",
        build,
        pairs=batch * heads * tokens * listed * block,
        list_bytes=heads * blocks * (listed + 1) * 4,
        list_length=listed * block,
    )


def routed(where: str, batch: int, heads: int, size: int, regions: int, topk: int, weighted: bool) -> Case:
    """A square map of size x size tokens in regions x regions regions."""
    region = (size // regions, size // regions)
    tokens = region[0] * region[1]

    def build(width: int, dtype: Any) -> tuple[Tensor, Tensor, Address, Address]:
        import torch

        from visionsparse.ops.triton.routed_attention import addresses, inverted_addresses

        x = torch.empty(batch, size, size, heads, width, dtype=dtype, device="meta").permute(0, 3, 1, 2, 4)
        routes = torch.empty(batch, 1, regions**2, topk, dtype=torch.int32, device="meta")
        weights = torch.empty(routes.shape, device="meta") if weighted else None
        sides = (x, x, routes, weights, region, region)
        return x.flatten(2, 3), x.flatten(2, 3), addresses(*sides), inverted_addresses(*sides)

    return Case(
        "routed_attention" + (" (weighted)" if weighted else ""),
        f"{where}: batch {batch}, {heads} heads, {size} x {size} tokens, regions of {tokens}, topk {topk}",
        build,
        pairs=batch * heads * size**2 * topk * tokens,
        list_bytes=batch * regions**2 * topk * 4,
        list_length=topk * tokens,
    )


def report(rows: list[Row]) -> Iterator[str]:
    """Markdown: one table a case, the lanes of BiFormer's stages, the summary as the last line."""
    import triton

    from visionsparse.ops.triton.inspection import CHIPS

    yield "# GPU kernels, compiled ahead of time"
    yield ""
    yield f"By `visionsparse inspect-kernels`, Triton {triton.__version__}, no GPU: nothing here was timed."
    yield "FLOPs are 2 a multiply-add; bytes count each input read once and each output written once. The roofline is"
    yield "the larger of FLOPs / peak and bytes / bandwidth, a bound on every implementation, for:"
    yield "; ".join(
        f"{chip.name} (sm_{capability}) {', '.join(f'{kind} {peak / 1e12:g}' for kind, peak in chip.flops.items())}"
        f" TFLOP/s, {chip.bandwidth / 1e12:g} TB/s"
        for capability, chip in CHIPS.items()
    )
    yield "(half: bf16 and fp16; tf32, ieee: float32 with and without torch's leave to use tf32)."
    yield "Tile: own rows x listed rows, warps, stages. Live: share of own x of listed rows that are no padding."
    for case in cases().values():
        mine = [row for row in rows if row.case == case.op]
        if mine:
            yield from _table(case, mine)
    yield from _stages()
    spills, broken = sum(row.compiled.spills for row in rows), sum(len(row.problems) for row in rows)
    products = [dot for row in rows if row.dtype != "ieee" for dot in row.compiled.dots]
    on_cores = sum(dot.startswith("mma") for dot in products)
    yield ""
    yield (
        f"{len(rows)} kernels, {spills} spills, {on_cores} of {len(products)} products on tensor cores"
        f" (ieee float32 apart), {broken} rules broken"
    )


def _table(case: Case, rows: list[Row]) -> Iterator[str]:
    yield ""
    yield f"## {case.op}"
    yield ""
    yield case.shape
    yield ""
    yield (
        "| kernel | chip | dtype | width | tile | registers | stack | shared KiB | spills | products | occupancy |"
        " live | GFLOP | MB | roofline µs |"
    )
    yield "| --- | --- | --- " + "| ---: " * 1 + "| --- " + "| ---: " * 4 + "| --- " + "| ---: " * 5 + "|"
    for row in rows:
        tile, made = row.tile, row.compiled
        layouts = " ".join(f"{made.dots.count(layout)} x {layout}" for layout in dict.fromkeys(made.dots))
        yield (
            f"| {row.kernel} | sm_{row.capability} | {row.dtype} | {row.width} | {tile.own} x {tile.listed},"
            f" {tile.num_warps}, {tile.num_stages} | {made.registers} | {made.stack} | {made.shared / 1024:.0f} |"
            f" {made.spills} | {layouts} | {made.occupancy(row.capability, tile.num_warps):.0%} |"
            f" {row.live_own:.0%} x {row.live_listed:.0%} | {row.flops / 1e9:.2f} | {row.num_bytes / 1e6:.1f} |"
            f" {row.roofline * 1e6:.1f} |"
        )


def _stages() -> Iterator[str]:
    """How full the tiles are where regions are small."""
    import torch

    from visionsparse.ops.triton.launch import Target
    from visionsparse.ops.triton.tiles import choose_tile

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


if __name__ == "__main__":
    run(main)
