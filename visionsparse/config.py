"""Config files: found by name, read as data, checked before anything is built.

A config is a Python file of literal assignments (`dict(...)` counts as a literal), with `_base_` for what it shares.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, VISBACKENDS, Registry

from visionsparse import registry as ours
from visionsparse.errors import ConfigError, did_you_mean

CONFIGS = Path(__file__).parent / "configs"

TOP_LEVEL_KEYS = frozenset(
    """model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg auto_scale_lr
    optim_wrapper param_scheduler val_evaluator test_evaluator default_hooks custom_hooks data_preprocessor
    load_from resume launcher env_cfg log_processor log_level visualizer default_scope randomness
    experiment_name compile find_unused_parameters""".split()
)

# The registry of the `type`s below a key; a key that is not named here keeps the registry of the key it stands under.
_REGISTRY_OF = {
    "model": ours.MODELS,
    "dataset": ours.DATASETS,
    "sampler": ours.DATA_SAMPLERS,
    "pipeline": ours.TRANSFORMS,
    "val_evaluator": ours.METRICS,
    "test_evaluator": ours.METRICS,
    "optim_wrapper": ours.OPTIM_WRAPPERS,
    "optimizer": OPTIMIZERS,
    "param_scheduler": ours.PARAM_SCHEDULERS,
    "default_hooks": ours.HOOKS,
    "custom_hooks": ours.HOOKS,
    "train_cfg": ours.LOOPS,
    "val_cfg": ours.LOOPS,
    "test_cfg": ours.LOOPS,
    "visualizer": ours.VISUALIZERS,
    "vis_backends": VISBACKENDS,
}


# Arguments that the Runner takes out before it builds.
_TAKEN_BY_THE_RUNNER = {ours.HOOKS: {"priority"}, ours.OPTIM_WRAPPERS: {"constructor", "paramwise_cfg"}}


def list_configs() -> list[str]:
    """Names of the installed configs, such as `biformer/biformer_nano_digits`."""
    paths = (path.relative_to(CONFIGS) for path in CONFIGS.glob("*/*.py"))
    return sorted(str(path.with_suffix("")) for path in paths if path.parts[0] != "_base_")


def resolve_config(name: str | Path) -> Path:
    """The file that `name` means: an existing path, else the installed config of that name, with or without `.py`."""
    for folder in (Path(), CONFIGS):
        for path in (folder / name, folder / f"{name}.py"):
            if path.is_file():
                return path
    known = list_configs()
    tails = [config for config in known if Path(config).name == Path(name).stem]
    hint = f" Did you mean {tails[0]!r}?" if tails else did_you_mean(str(name).removesuffix(".py"), known)
    raise ConfigError(f"{name}: no such config file, and no installed config of that name.{hint}")


def load_config(name: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Reads a config by path or name and merges `options` (`--cfg-options`, dotted keys) into it.

    Raises:
        ConfigError: no such config, code in a config, an unknown top-level key.
    """
    path = resolve_config(name)
    _check_is_data(path)
    try:
        config = Config.fromfile(path, lazy_import=False)
    except (OSError, SyntaxError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    _check_top_level(config, f"{path}")
    for key in options or {}:
        _check_top_level([key.split(".")[0]], f"--cfg-options {key}")
    try:
        config.merge_from_dict(dict(options or {}))
    except (KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
        raise ConfigError(f"--cfg-options: {options} does not fit {path}: {error}") from error
    return config


def model_of(config: Config) -> dict[str, Any]:
    """The config of the task model, with the data preprocessor that may stand beside it."""
    model = config.model.to_dict()
    if config.get("data_preprocessor"):
        model.setdefault("data_preprocessor", config.data_preprocessor.to_dict())
    return model


def check_config(config: Config) -> None:
    """Looks up every `type` in `config` and checks its arguments' names, so that a typo is met before training starts.

    Raises:
        ConfigError: names the config file, the field, what was found and the near misses.
    """
    for field, registry, node in _typed_nodes(config):
        name = node["type"]
        built = registry.get(name) if isinstance(name, str) else name
        if built is None:
            known = {*registry.module_dict, *(registry.parent.module_dict if registry.parent else ())}
            raise ConfigError(f"{config.filename}: {field}.type: {name!r} is not known.{did_you_mean(name, known)}")
        known_arguments = _argument_names(built)
        if known_arguments is None:
            continue
        for argument in node.keys() - {"type", "_scope_"} - _TAKEN_BY_THE_RUNNER.get(registry, set()):
            if argument not in known_arguments:
                raise ConfigError(
                    f"{config.filename}: {field}.{argument}: {name} has no argument of that name."
                    f"{did_you_mean(argument, known_arguments)}"
                )


def _check_is_data(path: Path) -> None:
    """Refuses a config, or a base of it, that is more than assignments of literals."""
    try:
        tree = ast.parse(path.read_text(), filename=str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{path}: can't be read as a config: {error}") from error
    for statement in tree.body:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if is_docstring:
            continue
        if not isinstance(statement, ast.Assign) or not _is_literal(statement.value):
            raise ConfigError(
                f"{path}:{statement.lineno}: a config is data: only assignments of literals and dict(...), "
                "no import, no function, no arithmetic. Write the value itself."
            )
        if isinstance(statement.targets[0], ast.Name) and statement.targets[0].id == "_base_":
            bases = ast.literal_eval(statement.value)
            for base in [bases] if isinstance(bases, str) else bases:
                _check_is_data(path.parent / base)


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
    if isinstance(node, ast.List | ast.Tuple):
        return all(_is_literal(item) for item in node.elts)
    if isinstance(node, ast.Dict):
        return all(key is not None and _is_literal(key) for key in node.keys) and all(map(_is_literal, node.values))
    if isinstance(node, ast.Call):
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        return is_dict and all(keyword.arg is not None and _is_literal(keyword.value) for keyword in node.keywords)
    return False


def _check_top_level(keys: Any, where: str) -> None:
    for key in keys:
        if key not in TOP_LEVEL_KEYS:
            raise ConfigError(f"{where}: {key!r} is not a config key.{did_you_mean(key, TOP_LEVEL_KEYS)}")


def _typed_nodes(config: Mapping) -> Iterator[tuple[str, Registry, Mapping]]:
    """(dotted field, registry, node) of every dict with a `type`, outermost first."""

    def walk(node: Any, field: str, registry: Registry | None) -> Iterator[tuple[str, Registry, Mapping]]:
        if isinstance(node, Mapping):
            if registry is not None and "type" in node:
                yield field, registry, node
            for key, value in node.items():
                yield from walk(value, f"{field}.{key}" if field else key, _REGISTRY_OF.get(key, registry))
        elif isinstance(node, list | tuple):
            for index, value in enumerate(node):
                yield from walk(value, f"{field}[{index}]", registry)

    return walk(config._cfg_dict if isinstance(config, Config) else config, "", None)


def _argument_names(built: Callable) -> set[str] | None:
    """The keyword arguments that `built` takes, or None where it takes any.

    A zoo entry tells its own (`argument_names`), because it passes keywords on to a net that is imported when built.
    """
    if hasattr(built, "argument_names"):
        return built.argument_names()
    try:
        parameters = inspect.signature(built).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return set(parameters)
