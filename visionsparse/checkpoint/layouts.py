"""Whose names a state dict has, and what they are called in our model.

A system's published layout is data in `visionsparse/models/<system>/checkpoint.py`:

    LAYOUT       what the layout is called, such as "biformer published"
    WEIGHTS_KEY  the wrapper key whose accuracy was published
    RENAMES      (regular expression, replacement) pairs for published names; the first that matches is applied once
    reshape      optional, `reshape(model, state) -> state` after renaming: reshapes, splits and joins only
    publish      `publish(model, state) -> state`, the way back: our names and shapes in the published layout
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from visionsparse.checkpoint.reading import one_line
from visionsparse.errors import CheckpointError

AS_IT_IS = "the model's own names"
IGNORED = "data_preprocessor."  # mean and std of a task model: the config says them, not the file

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_WRAPPING_MODULES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


@dataclass(frozen=True)
class Part:
    """The module inside a model that a system's table speaks of; `prefix` leads to it; no table for no system."""

    prefix: str
    module: nn.Module
    table: ModuleType | None


def system_part(model: nn.Module) -> Part:
    """The one net of a system (or piece of it) in `model`; without any, its backbone, else `model` itself."""
    parts = list(_parts(model, ""))
    if len(parts) == 1:
        return parts[0]
    backbone = getattr(model, "backbone", None)
    return Part("backbone.", backbone, None) if isinstance(backbone, nn.Module) else Part("", model, None)


def unwrap(content: Mapping[str, Any], where: str, part: Part) -> tuple[Mapping[str, Tensor], str]:
    """The state dict in `content`, and a note on which of its weights that is."""
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return _checked(content, where), ""
    wrappers = dict.fromkeys((part.table.WEIGHTS_KEY, *_WRAPPERS) if part.table else _WRAPPERS)
    key = next((key for key in wrappers if isinstance(content.get(key), Mapping) and content[key]), None)
    if key is None:
        held = few([str(key) for key in content]) or "nothing"
        raise CheckpointError(
            f"{where}: no weights found: it holds {held}; expected a state dict, or one under {' or '.join(wrappers)}. "
            "Pass the state dict itself."
        )
    state = _checked(content[key], f"{where}: {key}")
    if key == "state_dict" and "ema_state_dict" in content:  # mmengine's EMAHook has swapped them when saving
        return state, " (`state_dict`, the averaged weights; the raw ones in `ema_state_dict` are not used)"
    beside = [str(name) for name, value in content.items() if name != key and _holds_weights(value)]
    return state, f" (`{key}`; {few(beside)} beside it not used)" if beside else f" (`{key}`)"


def convert(model: nn.Module, state: Mapping[str, Tensor], where: str) -> tuple[str, dict[str, Tensor]]:
    """(layout, state dict in the names and shapes of `model`) of a state dict in any known layout."""
    part = system_part(model)
    outside_names = {name for name in model.state_dict() if not name.startswith(part.prefix)}
    outside: dict[str, Tensor] = {}
    inside: dict[str, Tensor] = {}
    for name, tensor in _without_wrapping_modules(state).items():
        if name.startswith(IGNORED):
            continue
        if name in outside_names:
            outside[name] = tensor
        else:
            _add(inside, _below_backbone(name, part), tensor, where)
    layout, inside = _to_our_names(part, inside, where)
    return layout, {**outside, **{part.prefix + name: tensor for name, tensor in inside.items()}}


def publish(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours in the published layout of the net in `model`, bit for bit; the opposite of `convert`.

    Raises:
        CheckpointError: there is no published layout.
    """
    part = system_part(model)
    if part.table is None:
        raise CheckpointError(f"{type(model).__name__}: no published layout is known for it. Keep our own names.")
    inside = {name.removeprefix(part.prefix): value for name, value in state.items() if not name.startswith(IGNORED)}
    return part.table.publish(part.module, inside)


def few(names: Sequence[str], shown: int = 3) -> str:
    """`a, b, c, and 9 more`."""
    return ", ".join(map(one_line, names[:shown])) + (f", and {len(names) - shown} more" if len(names) > shown else "")


def _checked(state: Mapping[Any, Any], where: str) -> Mapping[str, Tensor]:
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            got = f"{one_line(name)} ({type(name).__name__}) names {type(value).__name__}"
            raise CheckpointError(f"{where}: {got}; expected str names Tensor. Pass a plain state dict.")
    return state


def _holds_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(inner, Tensor) for inner in value.values())


def _parts(module: nn.Module, prefix: str) -> Iterator[Part]:
    """The outermost modules that belong to a system with a checkpoint table."""
    for base in type(module).__mro__:
        found = re.match(r"visionsparse\.models\.\w+", base.__module__)
        if found and importlib.util.find_spec(f"{found.group()}.checkpoint"):
            yield Part(prefix, module, importlib.import_module(f"{found.group()}.checkpoint"))
            return
    for name, child in module.named_children():
        yield from _parts(child, f"{prefix}{name}.")


def _without_wrapping_modules(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    while prefix := next((p for p in _WRAPPING_MODULES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _below_backbone(name: str, part: Part) -> str:
    """`name` as the part itself knows it, whether the file, the model or both are a task around a backbone."""
    prefix = next((p for p in (part.prefix, "backbone.") if p and name.startswith(p)), "")
    return name if hasattr(part.module, "backbone") else name.removeprefix(prefix)


def _to_our_names(part: Part, state: dict[str, Tensor], where: str) -> tuple[str, dict[str, Tensor]]:
    if part.table is None:
        return AS_IT_IS, state
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        _add(renamed, _rename(name, part.table.RENAMES), tensor, where)
    own = part.module.state_dict()
    if len(own.keys() & state.keys()) > len(own.keys() & renamed.keys()):
        return AS_IT_IS, state
    if hasattr(part.table, "reshape"):
        try:
            renamed = part.table.reshape(part.module, renamed)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{where}: has names of {part.table.LAYOUT}, but can't be converted: {one_line(error)}. "
                "Is it a checkpoint of another model?"
            ) from error
    is_ours = renamed.keys() == state.keys() and all(renamed[name].shape == state[name].shape for name in state)
    return AS_IT_IS if is_ours else part.table.LAYOUT, renamed


def _rename(name: str, renames: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        renamed, count = re.subn(pattern, replacement, name, count=1)
        if count:
            return renamed
    return name


def _add(state: dict[str, Tensor], name: str, tensor: Tensor, where: str) -> None:
    if name in state:
        raise CheckpointError(f"{where}: two entries become {one_line(name)}, expected one. Is it of another model?")
    state[name] = tensor
