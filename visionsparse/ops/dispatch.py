"""Which backend runs an op: the one that is forced, else the first in the order of `_PREFERENCE` that takes the input.

An op's module registers its backends:

    @backend("routed_attention", "reference")
    def _reference(q, k, v, ...): ...

    @backend("routed_attention", "triton", why_not=needs_cuda)      # a sentence, or None where it can run

and its public function, after checking its arguments, calls `dispatch("routed_attention", q=q, k=k, ...)`.
A backend is forced by `with use_backend("reference"):`, or for a whole process by VISIONSPARSE_BACKEND.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch

from visionsparse.errors import InputError, UnknownNameError, did_you_mean

ENVIRONMENT_VARIABLE = "VISIONSPARSE_BACKEND"
AUTO = "auto"

_PREFERENCE = ("triton", "torch", "reference")  # fastest first; `reference` takes everything and so comes last


class Backend(NamedTuple):
    function: Callable[..., Any]
    why_not: Callable[..., str | None] | None


_OPS: dict[str, dict[str, Backend]] = {}
_forced: ContextVar[str | None] = ContextVar("visionsparse_backend", default=None)
_around: Callable[[str, dict[str, Any]], contextlib.AbstractContextManager] | None = None  # see `watch_calls`
_last_forced: str | None = None  # what `_forced` was last set to, in whatever thread: see `_chosen_name`

Function = TypeVar("Function", bound=Callable[..., Any])


def backend(op: str, name: str, why_not: Callable[..., str | None] | None = None) -> Callable[[Function], Function]:
    """Register the decorated function as the backend `name` of `op`.

    `why_not` is called with the backend's own keyword arguments; it returns None where the backend can take them,
    else a sentence that says why it can't. Without it the backend takes everything.
    """
    if name not in _PREFERENCE:
        raise ValueError(f"backend {name!r} of {op} has no place in the order of preference {_PREFERENCE}.")

    def register(function: Function) -> Function:
        _OPS.setdefault(op, {})[name] = Backend(function, why_not)
        return function

    return register


def backends(op: str) -> list[str]:
    """Names of the backends that `op` has here, the preferred one first.

    Raises: UnknownNameError for an unknown op, with its near misses.
    """
    if op not in _OPS:
        raise UnknownNameError(f"No op is called {op!r}.{did_you_mean(op, _OPS)}")
    return [name for name in _PREFERENCE if name in _OPS[op]]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force every op called inside the `with` block (in this thread or task) onto one backend.

    Blocks nest; the innermost counts, and counts before VISIONSPARSE_BACKEND. `"auto"` gives the choice back.
    A function under torch.compile is compiled again for each backend that it is called under; VISIONSPARSE_BACKEND is
    read only when it is compiled.

    Raises: UnknownNameError for a name that no op has, with its near misses. An op raises InputError at its call where
    the forced backend can't take the input.
    """
    global _last_forced
    _check_name(name, "use_backend")
    token = _forced.set(name)
    _last_forced = name
    try:
        yield
    finally:
        _forced.reset(token)
        _last_forced = _forced.get()


@contextlib.contextmanager
def watch_calls(around: Callable[[str, dict[str, Any]], contextlib.AbstractContextManager]) -> Iterator[None]:
    """Runs every op called inside the `with` block under `around(op, arguments)`; for counting, in one thread."""
    global _around
    before, _around = _around, around
    try:
        yield
    finally:
        _around = before


def dispatch(op: str, **arguments: Any) -> Any:
    """Call `op`'s forced backend, or the preferred one of those that take these arguments.

    Raises: UnknownNameError where VISIONSPARSE_BACKEND names no backend; InputError where the forced backend, or every
    backend, can't take the arguments, with each one's reason.
    """
    name = _chosen_name(_last_forced)
    if name != AUTO and name not in _OPS[op]:
        raise InputError(f"{op} has no backend {name!r} here. It has {', '.join(backends(op))}; use one of them.")
    reasons = []
    for candidate in backends(op) if name == AUTO else [name]:
        function, why_not = _OPS[op][candidate]
        reason = why_not(**arguments) if why_not is not None else None
        if reason is None:
            if _around is None:
                return function(**arguments)
            with _around(op, arguments):
                return function(**arguments)
        reasons.append(f"{candidate}: {reason}")
    who = "no backend can" if name == AUTO else f"the forced backend {name!r} can't"
    raise InputError(f"{op}: {who} take {_describe(arguments)}. {' '.join(reasons)}")


def _chosen_name(last_forced: str | None) -> str:
    """The forced backend or "auto".

    torch.compile can't trace a ContextVar, so it takes the result for a constant (the mark below); that it guards the
    argument makes it ask again when a `use_backend` block was entered or left.
    """
    name = _forced.get()
    if name is not None:
        return name
    name = os.environ.get(ENVIRONMENT_VARIABLE) or AUTO
    _check_name(name, ENVIRONMENT_VARIABLE)
    return name


# What torch.compiler.assume_constant_result does, without the 2 s of importing torch._dynamo.
_chosen_name._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check_name(name: str, where: str) -> None:
    known = {AUTO}.union(*_OPS.values())
    if name not in known:
        raise UnknownNameError(f"{where}: no backend is called {name!r}.{did_you_mean(name, known)}")


def _describe(arguments: dict[str, Any]) -> str:
    """`q (2, 4, 14, 14, 32) float32 cpu, ...` of the tensors, and the rest as it is."""
    shown = []
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            shown.append(f"{name} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} {value.device}")
        elif value is not None:
            shown.append(f"{name}={value}")
    return ", ".join(shown)
