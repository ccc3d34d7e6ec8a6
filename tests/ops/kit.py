"""What every op's tests share: a call with its inputs, and how close a backend must come.

An op plugs into test_every_op.py with a `Plug`: a function that draws inputs and says which shapes to try.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from visionsparse import ops

BACKENDS = ("reference", "torch")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

Results = dict[str, torch.Tensor]


class OpInputs(NamedTuple):
    op: Callable[..., Any]
    tensors: Results  # q, k, v and whatever else is differentiable
    arguments: dict[str, Any]

    def call(self, **changed: Any) -> Any:
        return self.op(**{**self.tensors, **self.arguments, **changed})

    def run(self, backend: str, rounded_to: torch.dtype | None = None, **changed: Any) -> Results:
        """Output and the gradient of every input, for one random upstream gradient (rounded to `rounded_to`)."""
        tensors = {name: x.detach().requires_grad_() for name, x in self.tensors.items()}
        with ops.use_backend(backend):
            out = self.op(**{**tensors, **self.arguments, **changed})
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        upstream = upstream.to(rounded_to or out.dtype).to(out.dtype)
        grads = torch.autograd.grad(out, list(tensors.values()), upstream)
        return {"out": out.detach(), **{f"grad of {n}": g for n, g in zip(tensors, grads, strict=True)}}

    def to(self, dtype: torch.dtype, names: str | None = None) -> OpInputs:
        """With the tensors of these (one-letter) names, or all, in another dtype."""
        cast = {name: x.to(dtype) for name, x in self.tensors.items() if names is None or name in names}
        return self._replace(tensors={**self.tensors, **cast})

    def moved(self, function: Callable[[torch.Tensor], torch.Tensor]) -> OpInputs:
        """With q, k and v changed by `function`."""
        return self._replace(tensors={**self.tensors, **{name: function(self.tensors[name]) for name in "qkv"}})


class Plug(NamedTuple):
    make: Callable[..., OpInputs]  # takes batch, dtype and seed, and the keywords below
    strategy: st.SearchStrategy[OpInputs]  # random small shapes
    variants: dict[str, dict[str, Any]]  # small inputs that take every path of the op, by name
    large: dict[str, Any]  # inputs of several chunks, worth two threads
    composed: tuple[str, ...] = ()  # variants that "torch" makes of torch's own ops, without a custom one


def assert_all_close(got: Results, expected: Results, tolerance: float) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_as_exact_as_reference(
    case: OpInputs, backend: str, computes_in: torch.dtype | None = None, **changed: Any
) -> None:
    """Against a float64 run on the same inputs, `backend` is off by no more than a small multiple of what `reference`
    is off by in the dtype of the inputs, or of the rounding of the type that is computed in (float32 at least, unless
    said otherwise)."""
    dtype = case.tensors["q"].dtype
    exact = case.to(torch.float64).run("reference", rounded_to=dtype, **changed)
    reference, got = case.run("reference", **changed), case.run(backend, **changed)
    rounding = torch.finfo(computes_in or torch.promote_types(dtype, torch.float32)).eps
    # Terms of one gradient may be as large as another gradient, and cancel; a score's rounding is one of the softmax's
    # exponent, so the larger the scores, the less exact exp(score - log-sum-exp).
    largest = max([1.0, *(float(x.abs().max()) for x in exact.values() if x.numel())])
    largest *= max(4.0, _largest_score(case, changed.get("scale")))
    for name, value in exact.items():
        assert got[name].dtype == case.tensors.get(name.removeprefix("grad of "), case.tensors["q"]).dtype, name
        if value.numel():
            error, of_reference = (float((x[name].double() - value).abs().max()) for x in (got, reference))
            allowed = 4 * of_reference + 4 * rounding * largest
            assert error <= allowed, f"{name}: {backend} is off by {error:.3g}, reference by {of_reference:.3g}"


def _largest_score(case: OpInputs, scale: float | None) -> float:
    """A bound of the scores' size: |q| * |k| * scale, and the weight where there are weights."""
    q, k = (case.tensors[name].double() for name in "qk")
    if not (q.numel() and k.numel()):
        return 0.0
    weight = case.tensors.get("route_weights", torch.ones(1)).double().abs().max()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return float(scale * weight * q.norm(dim=-1).max() * k.norm(dim=-1).max())


def spread_over_2_31(x: torch.Tensor) -> torch.Tensor:
    """`x` with its tokens so far apart that the last lies 2 ** 31 elements behind the first: 8 GiB of address space of
    which only the pages written to become memory."""
    stride = -(-(2**31) // max(1, x.shape[2] - 1))
    strides = [*x.stride()]
    strides[2] = stride
    room = stride * (x.shape[2] - 1) + x.numel()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which Python 3.13 was the first to name
    storage = torch.frombuffer(mmap.mmap(-1, room * x.element_size(), flags=flags), dtype=x.dtype)
    return storage.as_strided(x.shape, strides).copy_(x)


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "visionsparse":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded_custom_ops() -> Iterator[list[tuple[Any, tuple[Any, ...]]]]:
    """The calls of our custom ops inside the block, forward and backward: (op, its arguments)."""
    with _Record() as record:
        yield record.calls
