"""visionsparse: sparse vision models and the sparse ops under them.

    import visionsparse as vs
    model = vs.create_model("biformer_tiny")

Importing this module loads nothing heavy: each public name brings its own module at first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from visionsparse._timm import register_when_imported
from visionsparse._version import __version__

_HOMES = {
    "list_models": "zoo",
    "create_model": "zoo",
    "load_checkpoint": "checkpoint",
    "convert_state_dict": "checkpoint",
    "init_model": "apis",
    "infer": "apis",
    "find_routes": "pictures",
    "draw_routes": "pictures",
    "draw_batch": "pictures",
    "draw_curves": "visualization",
}
_MODULES = ("apis", "checkpoint", "config", "datasets", "errors", "evaluation", "layers", "ops", "registry", "zoo")

__all__ = [*_HOMES, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"visionsparse.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"visionsparse.{name}")
    raise AttributeError(f"module 'visionsparse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_when_imported()
