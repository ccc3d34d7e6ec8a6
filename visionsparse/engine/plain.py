"""A training checkpoint as plain values and tensors, so that torch reads it with weights_only=True, and back.

mmengine's own files pickle HistoryBuffers and numpy objects, which a safe reader has to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

HISTORY_KEPT = 1000  # values a logged number keeps in a checkpoint; all of them are in scalars.json

_DROPPED = object()


def to_plain(value: Any, name: str = "checkpoint") -> Any:
    """`value` with only tensors, None, bool, int, float, str, list, tuple and dict in it.

    What can't be one of these is left out, with a warning that names it: a checkpoint is worth more without it.
    """
    plain = _plain(value, name)
    return None if plain is _DROPPED else plain


def _plain(value: Any, name: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu() if type(value) in (Tensor, torch.nn.Parameter) else _dropped(value, name)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, HistoryBuffer):
        values, counts = value.data
        return {"values": torch.tensor(values[-HISTORY_KEPT:]), "counts": torch.tensor(counts[-HISTORY_KEPT:])}
    if isinstance(value, Mapping):
        named = {key: _plain(item, f"{name}.{key}") for key, item in value.items()}
        return {key: item for key, item in named.items() if item is not _DROPPED}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
        return [item for item in items if item is not _DROPPED] if isinstance(value, list) else tuple(items)
    return _dropped(value, name)


def _dropped(value: Any, name: str) -> Any:
    print_log(f"{name} is a {type(value).__name__}: left out of the checkpoint", logger="current", level=30)
    return _DROPPED


def restore_message_hub(state: dict[str, Any]) -> dict[str, Any]:
    """A plain message hub as `MessageHub.load_state_dict` takes it."""
    scalars = {
        name: HistoryBuffer(history["values"].tolist(), history["counts"].tolist())
        for name, history in state["log_scalars"].items()
    }
    return {**state, "log_scalars": scalars}
