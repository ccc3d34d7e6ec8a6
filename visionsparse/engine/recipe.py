"""What of a config decides the numbers of a training. A run goes on from a checkpoint only where all of it is the same.

Free to change: where things lie and how they are run (work_dir, data_root, workers, logging, saving, validation,
device, compilation), and how long to train (max_epochs). The seed is the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmengine.config import Config

from visionsparse.engine.plain import to_plain
from visionsparse.errors import ConfigError

_KEYS = (
    "model", "data_preprocessor", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr",
    "default_hooks", "custom_hooks",
)  # fmt: skip
_FREE = (
    "train_dataloader.num_workers",
    "train_dataloader.prefetch_factor",
    "train_dataloader.persistent_workers",
    "train_dataloader.pin_memory",
    "train_dataloader.timeout",
    "train_dataloader.dataset.data_root",
    "train_dataloader.dataset.corrupt",  # a run that a broken image has stopped may go on without it
    "train_cfg.max_*",
    "train_cfg.val_*",
    "train_cfg.dynamic_intervals",
)
_HOOKS_THAT_WATCH = frozenset(
    """CheckpointHook LoggerHook IterTimerHook RuntimeInfoHook EmptyCacheHook ProfilerHook NaiveVisualizationHook
    FiniteLossHook StopHook ProgressBarHook SkippedImagesHook""".split()
)
_SHOWN = 5
_ABSENT = "nothing"


def recipe(cfg: Config) -> dict[str, Any]:
    """`{"optim_wrapper.optimizer.lr": 0.001, ...}`: plain values by dotted key."""
    values = cfg.to_dict()
    flat: dict[str, Any] = {}
    for key in _KEYS:
        value = values.get(key)
        if key == "default_hooks" and value:
            value = {name: hook for name, hook in value.items() if _decides(hook)}
        elif key == "custom_hooks" and value:
            value = [hook for hook in value if _decides(hook)]
        flat.update(_flattened(to_plain(value, key), key))
    return {key: value for key, value in flat.items() if not _is_free(key)}


def check_same_recipe(path: Path, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuses to go on from the checkpoint at `path`, which has `stored`, under another recipe.

    Raises:
        ConfigError: names the keys, each with the checkpoint's value and the config's.
    """
    changes = [
        f"{key}: {_shown(stored.get(key, _ABSENT))} -> {_shown(current.get(key, _ABSENT))}"
        for key in sorted({*stored, *current})
        if not _is_free(key) and stored.get(key, _ABSENT) != current.get(key, _ABSENT)
    ]
    if changes:
        more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise ConfigError(
            f"{path}: was trained with another config: {'; '.join(changes[:_SHOWN])}{more}. "
            f"Take these back to go on, or start anew from its weights: --load-from {path}"
        )


def _decides(hook: Mapping[str, Any] | None) -> bool:
    return hook is not None and str(hook.get("type")).split(".")[-1] not in _HOOKS_THAT_WATCH


def _is_free(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in _FREE)


def _flattened(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flattened(item, f"{key}.{name}")
    elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _flattened(item, f"{key}[{index}]")
    elif value is not None:
        yield key, list(value) if isinstance(value, tuple) else value  # (1, 4) and [1, 4] mean the same


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
