"""Tests of visionsparse inspect-kernels: real compilations for chips that are not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from visionsparse.errors import UserError
from visionsparse.ops.triton.inspection import Compiled, dot_layouts
from visionsparse.ops.triton.kernel_cases import cases
from visionsparse.ops.triton.kernel_table import wanted
from visionsparse.tools import inspect_kernels

ONE = ["--op", "routed_attention", "--dtype", "bf16", "--width", "32", "--jobs", "1"]


def test_kernels_compile_for_a_chip_that_is_elsewhere_and_keep_the_rules(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "kernels.md"
    inspect_kernels.main([*ONE, "--chip", "80", "--output", str(path)])
    printed = capsys.readouterr().out
    assert printed == path.read_text()
    assert "| forward | sm_80 | bf16 | 32 | " in printed
    assert printed.splitlines()[-1].startswith("6 kernels, 0 spills, 18 of 18 products on tensor cores")


@pytest.mark.slow
def test_every_kernel_keeps_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    inspect_kernels.main([])
    kernels, spills, *_ = capsys.readouterr().out.splitlines()[-1].split(", ")
    assert int(kernels.split()[0]) == 4 * 3 * 2 * 4 * 3 + 3 * 3 * 2  # three cases at one dtype and width
    assert spills == "0 spills"


def test_a_broken_rule_ends_in_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Compiled, "problems", lambda *_: ["2 spill instructions."])
    with pytest.raises(SystemExit) as stop:
        inspect_kernels.main([*ONE, "--chip", "80"])
    assert stop.value.code == 1
    line = "visionsparse: routed_attention forward, sm_80, bf16, width 32: 2 spill instructions."
    assert line in capsys.readouterr().err.splitlines()


def made(**changed: object) -> Compiled:
    return Compiled(128, 0, 40 * 1024, 0, ("mma v2 [16, 8]",))._replace(**changed)


@pytest.mark.parametrize(
    ("changed", "arithmetic", "problem"),
    [
        (dict(), "half", None),
        (dict(spills=3), "half", "3 spill instructions"),
        (dict(stack=8), "ieee", "8 bytes of stack"),
        (dict(shared=164 * 1024), "half", "the chip has 166912"),
        (dict(dots=("mma v2 [16, 8]", "blocked")), "tf32", "without tensor cores (blocked)"),
        (dict(dots=("blocked",)), "ieee", None),
        (dict(dots=()), "ieee", "no product found"),
    ],
)
def test_rules_are_spills_shared_memory_and_tensor_cores(
    changed: dict[str, object], arithmetic: str, problem: str | None
) -> None:
    found = made(**changed).problems(80, arithmetic, width=64)
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_heads_wider_than_128_may_spill() -> None:
    assert made(spills=3, stack=8).problems(80, "half", width=256) == []


def test_occupancy_is_limited_by_registers_shared_memory_or_slots() -> None:
    assert made(shared=0).occupancy(80, num_warps=4) == 16 / 64  # 65,536 registers hold 4 blocks of 128 x 128
    assert made(registers=32).occupancy(80, num_warps=4) == 16 / 64  # 164 KiB hold 4 blocks of 41 KiB
    assert made(registers=32).occupancy(90, num_warps=4) == 20 / 64
    assert made(registers=32, shared=0).occupancy(80, num_warps=4) == 1


def test_layouts_are_read_from_the_products_results() -> None:
    ttgir = """
#blocked = #ttg.blocked<{sizePerThread = [4, 4], order = [1, 0]}>
#mma = #ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [4, 1], instrShape = [16, 8]}>
  %s = tt.dot %q, %k, %c : tensor<64x32xf16, ##a> * tensor<32x64xf16, #b> -> tensor<64x64xf32, #mma>
  %o = tt.dot %p, %v, %c : tensor<64x32xf32, #a> * tensor<32x64xf32, #b> -> tensor<64x64xf32, #blocked>
"""
    assert dot_layouts(ttgir) == ("mma v2 [16, 8]", "blocked")


def test_an_unknown_op_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UserError, match="--op softmax: no such op. Known: block_sparse_attention"):
        inspect_kernels.main(["--op", "softmax"])


def test_rectangular_blocks_key_padding_and_wider_values_are_inspected_at_one_dtype_and_width() -> None:
    names = [name for name in cases() if name.startswith("block_sparse_attention (")]
    special = {
        f"block_sparse_attention ({what})" for what in ("blocks of 64 x 128", "key padding", "values twice as wide")
    }
    found = {name: wanted([name], [80], ["bf16", "ieee"], None) for name in names}
    assert {name for name, kernels in found.items() if len(kernels) == 3} == special
    assert all({what.dtype for what in found[name]} == {"bf16"} for name in special)


def test_any_width_can_be_asked_for_where_a_case_is_not_for_one_alone() -> None:
    assert {what.width for what in wanted(["routed_attention"], [80], ["bf16"], [256])} == {256}
    assert wanted(["block_sparse_attention (key padding)"], [80], ["bf16"], [256]) == []


def test_nothing_to_inspect_is_an_error() -> None:
    with pytest.raises(UserError, match="not inspected at this --dtype and --width"):
        inspect_kernels.main(["--op", "block_sparse_attention (key padding)", "--width", "256"])


@pytest.mark.parametrize("name", cases())
def test_a_case_is_as_large_as_it_says(name: str) -> None:
    import torch

    inputs, size = cases()[name].build(64, torch.bfloat16), cases()[name].size(64)
    assert size.queries == inputs.q.numel() // 64
    assert (size.width, size.value_width) == (inputs.q.shape[-1], inputs.v.shape[-1])
    for side in (inputs.address, inputs.inverted):
        assert side.groups * side.tokens == inputs.q.shape[2]
    assert size.pairs == size.queries * cases()[name].list_length
