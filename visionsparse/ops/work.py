"""How much work a call of an op is, whichever backend runs it: multiply-adds of what was asked for, and of all pairs.

An op's module says so beside its maths, in terms of the arguments that `dispatch` gets:

    @work("routed_attention")
    def _work(q, k, v, routes, ...): return Work(done=..., dense=...)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar


class Work(NamedTuple):
    """Multiply-adds: `done` is what the op's result takes, `dense` what it would take with nothing skipped."""

    done: int
    dense: int


Formula = TypeVar("Formula", bound=Callable[..., Work])

_FORMULAS: dict[str, Callable[..., Work]] = {}


def work(op: str) -> Callable[[Formula], Formula]:
    """Register the decorated function as what says how much work a call of `op` is."""

    def register(formula: Formula) -> Formula:
        _FORMULAS[op] = formula
        return formula

    return register


def work_of(op: str, arguments: dict[str, Any]) -> Work:
    """The work of one call, from the arguments that its backends get."""
    return _FORMULAS[op](**arguments)
