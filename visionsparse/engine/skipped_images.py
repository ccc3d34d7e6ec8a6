"""Says at the end of an epoch which images could not be read: a data set that may skip them (`corrupt="skip"`) does so
in worker processes, unseen.
"""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

from visionsparse.registry import HOOKS

_NAMED = 5
_WHAT_BECAME = {
    "train": "place taken by the next",
    "val": "not counted",
    "test": "not counted",
}


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Counts and names the skipped images of an epoch, over all processes; after a resume, of the epoch's rest."""

    def __init__(self) -> None:
        self._indices: dict[str, list[int]] = {}

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        self._indices[mode] = []

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if isinstance(data_batch, dict) and "skipped" in data_batch:
            self._indices[mode] += data_batch["index"][data_batch["skipped"].bool()].tolist()

    def _after_epoch(self, runner: Any, mode: str = "train") -> None:
        dataset = getattr(runner, f"{mode}_dataloader").dataset
        if getattr(dataset, "corrupt", "stop") == "stop":  # alike on all processes
            return
        indices = sorted(index for part in all_gather_object(self._indices[mode]) for index in part)
        if indices:
            names = ", ".join(dataset.files.path(index) for index in dict.fromkeys(indices[:_NAMED]))
            more = f", and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
            count = f"{len(indices)} image{'s' if len(indices) > 1 else ''}"
            runner.logger.warning(f"{mode}: {count} could not be read, {_WHAT_BECAME[mode]}: {names}{more}")
