"""block_sparse_attention at growing lengths and falling densities, against dense attention and FlexAttention."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from visionsparse import ops
from visionsparse.benchmark.attention_call import attention_call
from visionsparse.benchmark.block_sparse_baselines import (
    Function,
    compiled_flex,
    dense_sdpa,
    dense_sdpa_masked,
    gathered_sdpa,
)
from visionsparse.benchmark.plan import Call, Candidate
from visionsparse.ops.cost import Cost, block_sparse_size

BASELINE = "dense SDPA"
_MOST_PAIRS = 2**29  # of a mask written out: torch turns its bytes to as many floats
_MOST_KEPT = 2**32  # bytes of copies or scores


class Case(NamedTuple):
    """One length; its candidates are of every block size and density."""

    name: str
    tokens: int
    heads: int = 8
    width: int = 64
    blocks: tuple[int, ...] = (64, 128)
    densities: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05)

    def cost(self, block: int, listed: int, dtype: torch.dtype, backward: bool) -> Cost:
        size = block_sparse_size(1, self.heads, self.tokens, (block, block), listed, self.width)
        forward = size.cost("forward", dtype.itemsize)
        return forward + size.cost("backward", dtype.itemsize) if backward else forward


CASES = (Case("4k", 4096), Case("8k", 8192), Case("16k", 16384))


def exact_mask(heads: int, blocks: int, listed: int, device: torch.device) -> Tensor:
    """(1, heads, blocks, blocks) bool with `listed` random blocks in every row."""
    score = torch.rand(1, heads, blocks, blocks, generator=torch.Generator().manual_seed(0))
    chosen = score.topk(listed, dim=-1).indices
    return torch.zeros(score.shape, dtype=torch.bool).scatter_(-1, chosen, True).to(device)


@functools.lru_cache(maxsize=1)
def _tensors(case: Case, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """q, k, v and a gradient of the output, random; one copy for all candidates."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, case.heads, case.tokens, case.width)
    return tuple(torch.randn(shape, generator=generator).to(device, dtype) for _ in range(4))


def candidates(case: Case, device: torch.device, dtype: torch.dtype, backward: bool) -> list[Candidate]:
    """Dense attention once, then the sparse forms at every block size and density."""
    facts = {
        "shape": f"batch 1, {case.heads} heads of {case.width}, {case.tokens} tokens",
        "tokens": case.tokens,
        "density": 1.0,
    }

    def prepare(make: Callable[[], Function]) -> Call:
        *qkv, upstream = _tensors(case, device, dtype)
        return attention_call(make(), qkv, upstream if backward else None)

    block = case.blocks[0]
    cost = case.cost(block, case.tokens // block, dtype, backward)
    found = [
        Candidate(name, f"{case.name}/dense", partial(prepare, partial(dense_sdpa, backend)), facts, cost, **more)
        for name, backend, more in _dense_forms(case, device, dtype)
    ]
    for block, density in itertools.product(case.blocks, case.densities):
        blocks = case.tokens // block
        listed = max(1, round(density * blocks))
        facts = {**facts, "block": block, "density": listed / blocks}
        cost = case.cost(block, listed, dtype, backward)
        last = (block, density) == (case.blocks[0], case.densities[-1])
        # What gathers keeps a copy of the keys and values of every query block until the backward pass.
        kept = 2 * case.heads * case.tokens * listed * case.width * dtype.itemsize if backward else 0
        for name, make, more in _sparse_forms(case, device, backward, kept, written_out=last):
            made = partial(_of_mask, make, case.heads, blocks, listed, device, block)
            found.append(
                Candidate(name, f"{case.name}/{block}/{density:g}", partial(prepare, made), facts, cost, **more)
            )
    return found


def _of_mask(
    make: Callable[[Tensor, int], Function], heads: int, blocks: int, listed: int, device: torch.device, block: int
) -> Function:
    return make(exact_mask(heads, blocks, listed, device), block)


def _dense_forms(case: Case, device: torch.device, dtype: torch.dtype) -> list[tuple[str, str | None, dict[str, Any]]]:
    """(name, SDPA backend, more of the candidate): the one that torch chooses, then each; on CPU it chooses flash."""
    fused = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION") if device.type == "cuda" else ()
    scores = case.heads * case.tokens**2 * dtype.itemsize
    too_large = f"it would hold {scores / 2**30:g} GiB of scores." if scores > _MOST_KEPT else None
    return [
        (BASELINE, None, {}),
        *((f"{BASELINE}, {name.lower()}", name, {"optional": True}) for name in fused),
        (f"{BASELINE}, math", "MATH", {"optional": True, "why_not": too_large}),
    ]


def _sparse_forms(
    case: Case, device: torch.device, backward: bool, kept: int, written_out: bool
) -> list[tuple[str, Callable[[Tensor, int], Function], dict[str, Any]]]:
    """(name, function of mask and block, more of the candidate).

    A mask that is written out is measured at one density: its time does not depend on it.
    """
    flex: dict[str, Any] = {"why_not": _why_not_flex(device, backward), "compiles": True, "optional": True}
    too_much = f"it would keep {kept / 2**30:.1f} GiB of gathered keys and values." if kept > _MOST_KEPT else None
    backends = ("triton", "torch") if device.type == "cuda" else ("torch",)
    forms: list[tuple[str, Callable[[Tensor, int], Function], dict[str, Any]]] = [
        *((f"visionsparse {name}", partial(_ours, name), {}) for name in backends),
        ("SDPA over gathered blocks", gathered_sdpa, {"why_not": too_much}),
        ("compiled FlexAttention", compiled_flex, flex),
    ]
    if written_out:
        pairs = case.heads * case.tokens**2
        too_large = f"a mask of {pairs / 2**30:g} GiB, and its float copy." if pairs > _MOST_PAIRS else None
        forms.append(("dense SDPA, mask written out", dense_sdpa_masked, {"why_not": too_large}))
    return forms


def _ours(backend: str, mask: Tensor, block: int) -> Function:
    lists = ops.BlockLists.from_mask(mask)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with ops.use_backend(backend):
            return ops.block_sparse_attention(q, k, v, lists, block_size=(block, block))

    return function


def _why_not_flex(device: torch.device, backward: bool) -> str | None:
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "it needs Triton: pip install triton."
    if backward:
        return "it has no backward on CPU."
    if not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler on CPU: apt-get install g++."
    return None
