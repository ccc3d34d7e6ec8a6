"""Registries: mmengine's, under the scope `visionsparse`: `type="visionsparse.NAME"` works from foreign configs.

mmengine imports this module by itself for such a type, and a registry's locations at its first look-up.
"""

from __future__ import annotations

from mmengine import registry as parents
from mmengine.registry import Registry


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(
        parent.name, parent=parent, scope="visionsparse", locations=[f"visionsparse.{x}" for x in locations]
    )


MODELS = _child(parents.MODELS, "zoo", "tasks")
DATASETS = _child(parents.DATASETS, "datasets")
DATA_SAMPLERS = _child(parents.DATA_SAMPLERS, "datasets")
TRANSFORMS = _child(parents.TRANSFORMS, "datasets")
METRICS = _child(parents.METRICS, "evaluation")
HOOKS = _child(parents.HOOKS, "engine")
LOOPS = _child(parents.LOOPS, "engine")
VISBACKENDS = _child(parents.VISBACKENDS, "engine")
OPTIM_WRAPPERS = _child(parents.OPTIM_WRAPPERS, "engine")
OPTIM_WRAPPER_CONSTRUCTORS = _child(parents.OPTIM_WRAPPER_CONSTRUCTORS, "engine")
PARAM_SCHEDULERS = _child(parents.PARAM_SCHEDULERS, "engine")
VISUALIZERS = _child(parents.VISUALIZERS, "engine")

# mmengine's other registries: without a child of our scope, each look-up in them logs a long warning.
_ours = {id(value.parent) for value in globals().copy().values() if isinstance(value, Registry)}
for _parent in [value for value in vars(parents).values() if isinstance(value, Registry)]:
    if id(_parent) not in _ours:
        _child(_parent)
