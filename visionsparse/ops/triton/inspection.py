"""What a kernel becomes on a chip that need not be here: compiled ahead of time, and read back from the machine code.

Registers, stack and spills (LDL, STL) come from the cubin, by the cuobjdump and nvdisasm of the Triton wheel; the
layout of every product from the final TTGIR.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from visionsparse.ops.triton.launch import Launch

KIB = 1024


class Chip(NamedTuple):
    """Limits of a chip; what it does in a second is in ops/cost.py."""

    max_shared: int  # bytes of one block
    shared_per_sm: int


CHIPS = {80: Chip(163 * KIB, 164 * KIB), 90: Chip(227 * KIB, 228 * KIB)}
_REGISTERS_PER_SM, _WARPS_PER_SM, _BLOCKS_PER_SM = 64 * 1024, 64, 32


class Compiled(NamedTuple):
    registers: int  # of a thread
    stack: int  # bytes of a thread
    shared: int  # bytes of a block
    spills: int  # LDL and STL instructions
    dots: tuple[str, ...]  # layout of each product: "mma v2 [16, 8]", or what else it is

    def occupancy(self, capability: int, num_warps: int) -> float:
        """Share of a multiprocessor's warp slots that fit its registers and shared memory."""
        registers = -(-self.registers * 32 // 256) * 256 * num_warps  # handed out to a warp by 256
        shared = self.shared + KIB  # of which the driver keeps 1 KiB
        blocks = min(
            _BLOCKS_PER_SM,
            _WARPS_PER_SM // num_warps,
            _REGISTERS_PER_SM // registers,
            CHIPS[capability].shared_per_sm // shared,
        )
        return blocks * num_warps / _WARPS_PER_SM

    def problems(self, capability: int, arithmetic: str, width: int) -> list[str]:
        """Broken rules, as sentences. Heads wider than 128 may spill; ieee float32 has no tensor cores to use."""
        found = []
        if (self.spills or self.stack) and width <= 128:
            found.append(f"{self.spills} spill instructions, {self.stack} bytes of stack: take smaller tiles.")
        if self.shared > CHIPS[capability].max_shared:
            limit = CHIPS[capability].max_shared
            found.append(f"{self.shared} bytes of shared memory, the chip has {limit}: take smaller tiles.")
        if arithmetic != "ieee" and (without := [dot for dot in self.dots if not dot.startswith("mma")]):
            found.append(f"a product without tensor cores ({', '.join(without)}).")
        if not self.dots:
            found.append("no product found in its TTGIR.")
        return found


def compile_for(launch: Launch, capability: int) -> Compiled:
    """Compile a launch (its tensors may be meta) as it would be compiled on a chip of that compute capability."""
    target, kernel = GPUTarget("cuda", capability, 32), launch.kernel
    backend = make_backend(target)
    options = launch.options()
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, _ = bind(**launch.arguments, **options)
    parsed, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, None)
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=target, options=parsed.__dict__)
    usage, machine_code = _disassemble(compiled.asm["cubin"])
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    return Compiled(
        registers,
        stack,
        compiled.metadata.shared,
        spills=len(re.findall(r"\b(?:LDL|STL)\b", machine_code)),
        dots=dot_layouts(compiled.asm["ttgir"]),
    )


def dot_layouts(ttgir: str) -> tuple[str, ...]:
    """The layout of every product's result, in order."""
    layouts = {}
    for name, kind, body in re.findall(r"^(#\w+) = #ttg\.(\w+)<\{(.*)\}>", ttgir, re.MULTILINE):
        shape = re.search(r"instrShape = (\[[^\]]*\])", body)
        version = re.search(r"versionMajor = (\d+)", body)
        layouts[name] = f"mma v{version[1]} {shape[1]}" if kind == "nvidia_mma" and version and shape else kind
    results = re.findall(r"= (?:tt\.dot|ttng\.warp_group_dot) .*-> tensor<[^,]*, (#\w+)>", ttgir)
    return tuple(layouts.get(name, name) for name in results)


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """cuobjdump's line of resources, and the machine code as text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        usage = _output(triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", path)
        return usage, _output(triton.knobs.nvidia.nvdisasm.path, "--print-code", path)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
