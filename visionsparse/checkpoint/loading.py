"""Weights into a model: converted to its names, and loaded whole or refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionsparse.checkpoint.layouts import IGNORED, Part, convert, few, system_part, unwrap
from visionsparse.checkpoint.reading import read_checkpoint
from visionsparse.errors import CheckpointError


@dataclass(frozen=True)
class LoadReport:
    """What `load_checkpoint` found.

    Attributes:
        layout: whose names the file had, and which of its weights were taken.
        missing: names of the model that were left as they are.
        unexpected: names of the file that were not used.
    """

    layout: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept = f"; left as they were: {few(self.missing)}" if self.missing else ""
        unused = f"; in the file but not used: {few(self.unexpected)}" if self.unexpected else ""
        return f"loaded {self.layout}{kept}{unused}"


def convert_state_dict(model: nn.Module, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of `published` under the names and in the shapes of `model`; names that are ours already stay.

    Args:
        model: a net of the zoo, a part of one, a task model around one; of any other module only prefixes change.
        published: name -> tensor, without wrapper keys.

    Returns: name -> tensor; renamed, reshaped, split and joined only, so gradients flow back to `published`.

    Raises:
        CheckpointError: two entries get one name, or the entries are not those of the published layout.
    """
    return convert(model, published, "state dict")[1]


def load_checkpoint(model: nn.Module, source: str | Path | Mapping[str, Any], strict: bool = True) -> LoadReport:
    """Loads the weights of `source` into `model`, all of them or none.

    Args:
        model: as in `convert_state_dict`. Its dtypes and devices stay.
        source: a path, a URL, or a dict: a state dict, or a training checkpoint around one.
        strict: False leaves out a head of another number of classes, and reports it; nothing else is forgiven.

    Raises:
        CheckpointError: unreadable, or a name or shape does not fit; the model is untouched.
    """
    if isinstance(source, Mapping):
        return load_content(model, source, "state dict", strict)
    return load_content(model, read_checkpoint(source), str(source), strict)


def load_content(model: nn.Module, content: Mapping[str, Any], where: str, strict: bool = True) -> LoadReport:
    """`load_checkpoint` of what has been read already from `where`, which errors name."""
    part = system_part(model)
    state, which = unwrap(content, where, part)
    layout, state = convert(model, state, where)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(IGNORED)}

    unfit = (own.keys() ^ state.keys()) | {name for name in own.keys() & state if own[name].shape != state[name].shape}
    heads = _head_prefixes(model, part)
    only_head_differs = all(name.startswith(heads) for name in unfit)
    if unfit and (strict or not only_head_differs):
        raise CheckpointError(_why_it_does_not_fit(model, where, state, own, unfit, only_head_differs))
    for name, tensor in state.items():
        if tensor.is_meta or tensor.layout != torch.strided:
            raise CheckpointError(f"{where}: {name} is {tensor.layout} on {tensor.device}, expected dense numbers.")
    left_out = {name for name in own.keys() | state if unfit and name.startswith(heads)}
    model.load_state_dict({name: tensor for name, tensor in state.items() if name not in left_out}, strict=False)
    return LoadReport(
        layout + which,
        missing=tuple(name for name in own if name in left_out),
        unexpected=tuple(name for name in state if name in left_out),
    )


def _head_prefixes(model: nn.Module, part: Part) -> tuple[str, ...]:
    """Prefixes of the classifier's names: what `get_classifier()` gives, else `head.`."""
    found: Any = getattr(part.module, "get_classifier", tuple)()
    heads = (found,) if isinstance(found, nn.Module) else tuple(found)
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is head for head in heads))
    return prefixes or (f"{part.prefix}head.",)


def _why_it_does_not_fit(
    model: nn.Module,
    where: str,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    unfit: Collection[str],
    only_head_differs: bool,
) -> str:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and name in unfit
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    facts = ", ".join(f"{len(names)} {kind} ({few(names)})" for kind, names in kinds.items() if names)
    if only_head_differs:
        hint = "Only the head differs: create the model with the file's num_classes, or leave it out by strict=False."
    elif len(missing) > len(own) // 2:
        hint = "This looks like a checkpoint of another model: create the model that it was saved from."
    elif shapes:
        hint = "This looks like a checkpoint of another size or variant: create the model with the file's sizes."
    else:
        hint = "Was it saved from another variant, or with other options? Create the model the same way."
    return f"{where}: does not fit {type(model).__name__}: {facts}. {hint}"
