"""The model index: every variant that a system's metafile.yml names, by name.

A new system is found by its folder under models/: nothing here, and no list anywhere, names one. A variant
`biformer_tiny` of the system `biformer` is the function `biformer_tiny` of `visionsparse.models.biformer.model`;
it is imported when the model is created.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from visionsparse.errors import ConfigError, UnknownNameError, did_you_mean
from visionsparse.registry import MODELS

if TYPE_CHECKING:
    from torch import nn

SYSTEMS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Variant:
    """One entry of a metafile: `facts` is the entry as written there."""

    name: str
    system: str
    task: str
    facts: dict[str, Any]

    def builder(self) -> Callable[..., nn.Module]:
        """The function that builds this variant; imports the system."""
        module = importlib.import_module(f"visionsparse.models.{self.system}.model")
        return getattr(module, self.name)

    def argument_names(self) -> set[str]:
        """The keyword arguments it can be built with: those of the net that the builder says it returns."""
        net = typing.get_type_hints(self.builder())["return"]
        return set(inspect.signature(net).parameters)


@functools.cache
def variants() -> dict[str, Variant]:
    """Every variant by name, in the order of the metafiles."""
    found = {}
    for metafile in sorted(SYSTEMS.glob("*/metafile.yml")):
        for facts in yaml.safe_load(metafile.read_text())["variants"]:
            found[facts["name"]] = Variant(facts["name"], metafile.parent.name, facts["task"], facts)
    return found


def variant(name: str) -> Variant:
    """The variant of that name, or an UnknownNameError with the near misses."""
    if name not in variants():
        raise UnknownNameError(f"{name!r} is not a model of visionsparse.{did_you_mean(name, variants())}")
    return variants()[name]


def list_models(pattern: str = "*", *, task: str | None = None) -> list[str]:
    """Names of the models that match `pattern` (shell wildcards) and `task` (such as "classification").

    Raises:
        UnknownNameError: no system has a model for `task`.
    """
    tasks = {entry.task for entry in variants().values()}
    if task is not None and task not in tasks:
        raise UnknownNameError(f"{task!r} is not a task.{did_you_mean(task, tasks)}")
    return [
        name for name, entry in variants().items() if fnmatch.fnmatchcase(name, pattern) and task in (None, entry.task)
    ]


def create_model(name: str, **overrides: Any) -> nn.Module:
    """The plain `nn.Module` of that name: random weights, train mode.

    Args:
        name: one of `list_models()`.
        **overrides: the net's arguments (`num_classes`, `drop_path_rate`, `depths`, ...). With `features_only=True`
            (and `out_indices`) it gives timm's feature wrapper: raw NCHW maps and a `feature_info`.

    Raises:
        UnknownNameError: no such model; names the near misses.
        ConfigError: an argument that the net does not have.
    """
    entry = variant(name)
    if overrides.get("features_only"):
        import timm

        return timm.create_model(name, **overrides)
    known = entry.argument_names()
    for argument in overrides:
        if argument not in known:
            raise ConfigError(f"{name} has no argument {argument!r}.{did_you_mean(argument, known)}")
    return entry.builder()(**overrides)


def _registry_entry(entry: Variant) -> Callable[..., nn.Module]:
    def build(**overrides: Any) -> nn.Module:
        return create_model(entry.name, **overrides)

    build.argument_names = lambda: entry.argument_names() | {"features_only", "out_indices"}  # type: ignore[attr-defined]
    return build


for _entry in variants().values():
    MODELS.register_module(name=_entry.name, module=_registry_entry(_entry))
