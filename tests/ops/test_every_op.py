"""What holds for every op and backend: parity with `reference`, gradients, dtypes, strides, compilation, determinism.

An op joins by a line in OPS.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.block_inputs import BLOCK_SPARSE
from tests.ops.kit import (
    BACKENDS,
    DTYPES,
    OpInputs,
    assert_all_close,
    assert_as_exact_as_reference,
    recorded_custom_ops,
    spread_over_2_31,
)
from tests.ops.routed_inputs import ROUTED
from visionsparse import ops
from visionsparse.benchmark.processes import threads
from visionsparse.ops import tile_chunks

OPS = {"routed_attention": ROUTED, "block_sparse_attention": BLOCK_SPARSE}
MAKERS = {
    f"{op}, {variant}": functools.partial(plug.make, **keywords)
    for op, plug in OPS.items()
    for variant, keywords in plug.variants.items()
}

every_op = pytest.mark.parametrize("op", OPS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_variant = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
CUSTOM = {
    f"{op}, {variant}": MAKERS[f"{op}, {variant}"]
    for op, plug in OPS.items()
    for variant in plug.variants
    if variant not in plug.composed
}

Make = Callable[..., OpInputs]


@pytest.fixture
def fresh_compiler() -> None:
    torch.compiler.reset()


def check_parity(op: str, examples: int, **how: Any) -> None:
    @settings(max_examples=examples, deadline=None, database=None, **how)
    @given(
        case=OPS[op].strategy,
        chunk_bytes=st.sampled_from([1, 2000, 1 << 20]),
        scale=st.none() | st.floats(0, 2),
    )
    def agree(case: OpInputs, chunk_bytes: int, scale: float | None) -> None:
        with mock.patch.object(tile_chunks, "CHUNK_BYTES", chunk_bytes):
            assert_as_exact_as_reference(case, "torch", scale=scale)

    agree()


@pytest.mark.newest_torch
@every_op
def test_output_and_every_gradient_agree_with_reference(op: str) -> None:
    check_parity(op, 100, derandomize=True)


@pytest.mark.slow
@every_op
def test_a_long_sweep_agrees_with_reference(op: str) -> None:
    check_parity(op, 1000)


@every_backend
@pytest.mark.parametrize("dtype", DTYPES)
@every_variant
def test_every_dtype_is_as_exact_as_reference(make: Make, dtype: torch.dtype, backend: str) -> None:
    assert_as_exact_as_reference(make(dtype=dtype), backend)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_variant
def test_half_types_are_rounded_once(make: Make, dtype: torch.dtype, backend: str) -> None:
    # Computed in float32: against float64 on the same (rounded) inputs only the rounding of the result is left.
    case = make(dtype=dtype)
    got, exact = case.run(backend), case.to(torch.float64).run("reference", rounded_to=dtype)
    for name, right in exact.items():
        allowed = torch.finfo(dtype).eps / 2 * right.abs() + 1e-5
        assert ((got[name].double() - right).abs() <= allowed).all(), name


@every_backend
@every_variant
def test_gradients_are_those_of_finite_differences(make: Make, backend: str) -> None:
    case = make(batch=1, dtype=torch.float64)
    names, values = zip(*case.tensors.items(), strict=True)
    with ops.use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda *x: case.call(**dict(zip(names, x, strict=True))), [x.requires_grad_() for x in values]
        )


@every_op
def test_reference_has_a_second_derivative(op: str) -> None:
    case = OPS[op].make(batch=1, heads=1, channels=2, value_channels=1, dtype=torch.float64)
    values = [x.requires_grad_() for x in case.tensors.values()]
    with ops.use_backend("reference"):
        assert torch.autograd.gradgradcheck(lambda q, k, v: case.call(q=q, k=k, v=v), values)


STRIDED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "reversed axes": lambda x: x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim()))),
    "channels before tokens": lambda x: x.movedim(-1, 2).contiguous().movedim(2, -1),
    "heads beside channels": lambda x: x.movedim(1, -2).contiguous().movedim(-2, 1),
    "part of a wider tensor": lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
    "every second token": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "2 ** 31 elements apart": spread_over_2_31,
}


@every_backend
@pytest.mark.parametrize("strided", STRIDED.values(), ids=list(STRIDED))
@every_variant
def test_strides_do_not_matter(make: Make, strided: Callable[..., torch.Tensor], backend: str) -> None:
    for value_channels in (8, 3):  # on torch two ways to attend: torch's fused one takes values as wide as keys
        case = make(channels=8, value_channels=value_channels)
        assert_all_close(case.moved(strided).run(backend), case.run(backend), 1e-6)


@every_backend
@every_variant
def test_an_empty_batch_gives_an_empty_output_and_empty_gradients(make: Make, backend: str) -> None:
    got = make(batch=0).run(backend)
    for name, value in make().run("reference").items():
        assert got[name].shape == (0, *value.shape[1:]), name


@every_backend
@every_variant
def test_under_autocast_mixed_types_become_its_dtype(make: Make, backend: str) -> None:
    case = make()
    rounded = case.to(torch.bfloat16, names="qkv")
    with ops.use_backend(backend):
        expected = rounded.call()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = rounded.call(k=case.tensors["k"])
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@every_backend
@every_variant
def test_under_autocast_gradients_come_back_in_the_types_of_the_inputs(make: Make, backend: str) -> None:
    case = make()
    expected = case.to(torch.bfloat16, names="qkv").run(backend)
    op = torch.autocast("cpu", dtype=torch.bfloat16)(case.op)  # the forward pass alone, as torch advises
    got = case._replace(op=op).run(backend)
    for name, value in got.items():
        assert value.dtype == (torch.bfloat16 if name == "out" else torch.float32), name
        torch.testing.assert_close(value, expected[name].to(value.dtype), rtol=0, atol=0, msg=name)


@every_op
def test_float64_is_not_mixed_with_other_types_even_under_autocast(op: str) -> None:
    case = OPS[op].make()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="k is float64 but q bfloat16"):
        case.call(k=case.tensors["k"].double())


@every_backend
@every_op
def test_meta_tensors_give_the_shape(op: str, backend: str) -> None:
    case = OPS[op].make()
    given = {**case.tensors, **case.arguments}
    with ops.use_backend(backend):
        out = case.op(**{name: x.to("meta") if isinstance(x, torch.Tensor) else x for name, x in given.items()})
    assert (out.device.type, out.shape) == ("meta", case.call().shape)


@every_backend
@every_op
def test_inputs_that_need_no_gradient_get_none(op: str, backend: str) -> None:
    case = OPS[op].make()
    case.tensors["v"].requires_grad_()
    with ops.use_backend(backend):
        case.call().sum().backward()
    assert case.tensors["v"].grad is not None
    assert case.tensors["q"].grad is None


@every_op
def test_two_runs_on_two_threads_are_equal_to_the_bit(op: str) -> None:
    case = OPS[op].make(**OPS[op].large)
    with threads(2), mock.patch.object(tile_chunks, "CHUNK_BYTES", 1 << 18):
        assert_all_close(case.run("torch"), case.run("torch"), 0)


@pytest.mark.newest_torch
@pytest.mark.parametrize("make", CUSTOM.values(), ids=list(CUSTOM))
def test_the_custom_ops_pass_opcheck(make: Make) -> None:
    with recorded_custom_ops() as calls:
        make().run("torch")
    assert len(calls) == 2  # forward and backward
    for op, arguments in calls:
        inputs = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
        if op is calls[0][0]:  # the forward op's q, k, v and weights: the backward op has no derivative
            inputs = [
                x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs
            ]
        torch.library.opcheck(op, tuple(inputs))


@pytest.mark.newest_torch
@pytest.mark.usefixtures("fresh_compiler")
@every_backend
@every_variant
def test_a_full_graph_gives_the_same_output_and_gradients(make: Make, backend: str) -> None:
    case = make()
    compiled = case._replace(op=torch.compile(case.op, fullgraph=True, backend="aot_eager"))
    assert_all_close(compiled.run(backend), case.run(backend), 1e-6)


@pytest.mark.usefixtures("fresh_compiler")
@every_variant
def test_further_batch_sizes_share_one_graph(make: Make) -> None:
    graphs = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    case = make(batch=2)
    compiled = torch.compile(case.op, fullgraph=True, backend=record)
    for batch in (2, 3, 5):
        case = make(batch=batch)
        torch.testing.assert_close(compiled(**case.tensors, **case.arguments), case.call())
    assert len(graphs) == 2  # one for a batch of 2, then one for any batch


@pytest.mark.usefixtures("fresh_compiler")
@every_op
def test_compiled_code_follows_use_backend(op: str) -> None:
    used = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        used.append("torch" if "tiled_attention" in graph.code else "reference")
        return graph.forward

    case = OPS[op].make()
    compiled = torch.compile(lambda: case.call(), fullgraph=True, backend=record)
    compiled()
    with ops.use_backend("reference"):
        compiled()
    compiled()  # still there from the first time
    assert used == ["torch", "reference"]
