"""Makes our classification nets known to timm without importing it: now if timm is loaded, else when it is."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from visionsparse.zoo import Variant

default_cfgs: dict[str, dict[str, Any]] = {}  # timm's register_model looks for this name in the entry's module
__all__ = ["register_when_imported"]


def register_when_imported() -> None:
    """Registers every classification net with timm now, or when `timm.models` gets imported."""
    if "timm.models" in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterTimmModels) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimmModels())


class _AfterTimmModels(importlib.abc.MetaPathFinder):
    """Waits for `timm.models`, steps aside, and registers our models after that module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "timm.models":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_and_register(module: ModuleType) -> None:
            run(module)
            _register()

        spec.loader.exec_module = exec_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    from timm.models import register_model

    from visionsparse.zoo import list_models, variant

    for name in list_models(task="classification"):
        entry = variant(name)
        default_cfgs[name] = {
            "url": "",
            "num_classes": 1000,
            "input_size": tuple(entry.facts["input_size"]),
            "classifier": "head",
            **entry.facts.get("timm", {}),
        }
        register_model(_entry_point(entry))


def _entry_point(entry: Variant) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        from timm.models import build_model_with_cfg

        return build_model_with_cfg(
            entry.builder(),
            entry.name,
            pretrained,
            feature_cfg={"feature_cls": "getter", "out_indices": (0, 1, 2, 3)},
            **kwargs,
        )

    build.__name__ = build.__qualname__ = entry.name
    return build
