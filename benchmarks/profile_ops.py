"""What the ops' time goes into on CPU, beside the speed of a large matmul and of torch's fused attention by shape.

OMP_NUM_THREADS=1 python benchmarks/profile_ops.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from visionsparse.benchmark.machine import describe
from visionsparse.benchmark.ops import op_groups
from visionsparse.benchmark.timing import interleaved
from visionsparse.ops.onednn_attention import onednn_attention, onednn_product

CALLS, ROWS = 10, 6


def show_speeds(device: torch.device) -> None:
    """Prints the GFLOP/s of matmuls and of attention by shape and form, timed in turn."""
    a = torch.randn(2048, 2048)
    calls: dict[str, Callable[[], object]] = {
        "matmul of 2,048 x 2,048, torch's, MKL": lambda: a @ a,
        "matmul of 2,048 x 2,048, oneDNN": lambda: onednn_product(a, a),
    }
    operations = dict.fromkeys(calls, 2 * 2048**3)
    for shape, forms in SHAPES.items():
        tiles, queries, keys, channels = shape
        q, k, v = (torch.randn(tiles, tokens, channels) for tokens in (queries, keys, keys))
        for form, attention in forms.items():
            name = f"attention of {tiles} x {queries} queries over {keys} keys, {channels} channels, {form}"
            operations[name] = 4 * tiles * queries * keys * channels
            calls[name] = partial(attention, q, k, v)
    for name, timing in interleaved(calls, device, seconds=10).items():
        print(f"{name}: {operations[name] / timing.median / 1e9:.0f} GFLOP/s")


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])


def tile_by_tile(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return onednn_attention(q[:, None], k[:, None], v[:, None], None, q.shape[-1] ** -0.5)[0]


def batched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT, -1) @ v


DENSE = {"fused": fused}
ROUTED = {"fused": fused, "by batched products": batched}
LISTED = {**ROUTED, "by oneDNN's products, a tile at a time": tile_by_tile}
# Tiles, queries, keys, channels: dense; block-sparse at 8k with long and short lists; routed at stages 1 to 3.
SHAPES = {
    (1, 4096, 4096, 64): DENSE,
    (16, 128, 2048, 64): LISTED,
    (16, 64, 2048, 64): LISTED,
    (32, 128, 384, 64): LISTED,
    (32, 64, 448, 64): LISTED,
    (256, 64, 64, 32): ROUTED,
    (256, 16, 64, 32): ROUTED,
    (64, 196, 196, 32): ROUTED,
}


def show(title: str, call: Callable[[], object]) -> None:
    """Prints the operators that take most of a call, milliseconds each; a shorter form of torch's own table."""
    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        for _ in range(CALLS):
            call()
    found = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in found)
    print(f"\n{title}: {total / CALLS / 1e3:.1f} ms")
    for event in found[:ROWS]:
        taken = event.self_cpu_time_total
        print(f"  {taken / CALLS / 1e3:8.2f} ms  {taken / total:4.0%}  {event.count // CALLS:4d} calls  {event.key}")


def main() -> None:
    cpu = torch.device("cpu")
    print({**describe(cpu), "threads": torch.get_num_threads()})
    show_speeds(cpu)
    for op, case, passes in (
        ("block_sparse_attention", "8k/64/0.25", "forward"),
        ("block_sparse_attention", "8k/64/0.1", "forward+backward"),
        ("routed_attention", "stage 2", "forward+backward"),
        ("routed_attention", "stage 3", "forward+backward"),
    ):
        for group in op_groups([op], cpu, cases=(case,), candidates=("visionsparse torch",)):
            for candidate in group.candidates:  # by hand too, but dense attention is a case of its own
                if (candidate.case, group.setting["pass"]) == (case, passes):
                    show(f"{case}, {candidate.name}, {passes}", candidate.prepare())


if __name__ == "__main__":
    main()
