"""Tests of visionsparse.ops.dispatch, on a toy op with three backends that say their names."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading

import pytest
import torch

from visionsparse import ops
from visionsparse.errors import InputError, UnknownNameError
from visionsparse.ops import dispatch as module
from visionsparse.ops.dispatch import backend, dispatch


def too_wide(x: torch.Tensor) -> str | None:
    return "it takes widths up to 8." if x.shape[-1] > 8 else None


def only_half(x: torch.Tensor) -> str | None:
    return None if x.dtype == torch.float16 else "it takes float16 only."


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISIONSPARSE_BACKEND", raising=False)
    monkeypatch.setattr(module, "_OPS", {})
    backend("toy", "reference")(lambda x: "reference")
    backend("toy", "torch", why_not=too_wide)(lambda x: "torch")
    backend("toy", "triton", why_not=only_half)(lambda x: "triton")
    backend("plain", "reference")(lambda x: "reference")


def call(width: int = 4, dtype: torch.dtype = torch.float32) -> str:
    return dispatch("toy", x=torch.zeros(2, width, dtype=dtype))


def test_backends_are_listed_with_the_preferred_one_first() -> None:
    assert ops.backends("toy") == ["triton", "torch", "reference"]


def test_an_unknown_op_is_an_error_that_names_near_misses() -> None:
    with pytest.raises(UnknownNameError, match=re.escape("No op is called 'toys'. Did you mean 'toy'?")):
        ops.backends("toys")


@pytest.mark.parametrize(
    ("width", "dtype", "chosen"),
    [(4, torch.float16, "triton"), (4, torch.float32, "torch"), (9, torch.float32, "reference")],
)
def test_auto_takes_the_first_backend_that_accepts_the_input(width: int, dtype: torch.dtype, chosen: str) -> None:
    assert call(width, dtype) == chosen


def test_blocks_nest_and_auto_gives_the_choice_back() -> None:
    with ops.use_backend("reference"):
        with ops.use_backend("auto"):
            assert call() == "torch"
        assert call() == "reference"
    assert call() == "torch"


def test_an_exception_ends_a_block() -> None:
    with pytest.raises(ZeroDivisionError), ops.use_backend("reference"):
        _ = 1 / 0
    assert call() == "torch"


def test_use_backend_refuses_an_unknown_name_and_names_near_misses() -> None:
    expected = "use_backend: no backend is called 'referense'. Did you mean 'reference'?"
    with pytest.raises(UnknownNameError, match=re.escape(expected)), ops.use_backend("referense"):
        pass


def test_the_environment_variable_forces_and_a_with_block_overrules_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONSPARSE_BACKEND", "reference")
    assert call() == "reference"
    with ops.use_backend("auto"):
        assert call() == "torch"


def test_an_unknown_name_in_the_environment_is_one_error_at_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONSPARSE_BACKEND", "troch")
    expected = "VISIONSPARSE_BACKEND: no backend is called 'troch'. Did you mean 'torch'?"
    with pytest.raises(UnknownNameError, match=re.escape(expected)):
        call()


def test_a_forced_backend_that_declines_gives_its_reason() -> None:
    expected = "toy: the forced backend 'torch' can't take x (2, 9) float32 cpu. torch: it takes widths up to 8."
    with ops.use_backend("torch"), pytest.raises(InputError, match=re.escape(expected)):
        call(width=9)


def test_an_op_without_the_forced_backend_says_which_it_has() -> None:
    expected = "plain has no backend 'torch' here. It has reference; use one of them."
    with ops.use_backend("torch"), pytest.raises(InputError, match=re.escape(expected)):
        dispatch("plain", x=torch.zeros(1))


def test_where_no_backend_fits_the_error_lists_inputs_and_every_reason() -> None:
    del module._OPS["toy"]["reference"]
    expected = (
        "toy: no backend can take x (2, 9) float32 cpu. triton: it takes float16 only. torch: it takes widths up to 8."
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        call(width=9)


def test_a_backend_without_a_place_in_the_order_of_preference_is_refused() -> None:
    with pytest.raises(ValueError, match="'cuda' of toy has no place"):
        backend("toy", "cuda")


def test_another_thread_keeps_its_own_choice() -> None:
    seen = []
    with ops.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(call()))
        thread.start()
        thread.join()
    assert seen == ["torch"]


def test_interleaved_tasks_keep_their_own_choices() -> None:
    async def task(name: str) -> str:
        with ops.use_backend(name):
            await asyncio.sleep(0)  # hands over to the other task inside the block
            return call()

    async def both() -> list[str]:
        return await asyncio.gather(task("reference"), task("torch"))

    assert asyncio.run(both()) == ["reference", "torch"]


def test_using_an_op_forward_and_backward_imports_torch_only() -> None:
    code = """
import sys, torch
from visionsparse import ops
q, k, v = (torch.randn(1, 1, 4, 4, 2, requires_grad=True) for _ in range(3))
ops.routed_attention(q, k, v, torch.zeros(1, 1, 4, 1, dtype=torch.int64), region_size=(2, 2)).sum().backward()
q, k, v = (torch.randn(1, 1, 64, 2, requires_grad=True) for _ in range(3))
ops.block_sparse_attention(q, k, v, torch.ones(1, 1, 2, 2, dtype=torch.bool), block_size=(32, 32)).sum().backward()
heavy = ("torch._dynamo", "triton", "torchvision", "timm", "mmengine", "matplotlib")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
