"""One line a logging interval: where training stands, how well, how fast, and how long it will take."""

from __future__ import annotations

import datetime
from typing import Any

from mmengine.dist import get_world_size
from mmengine.registry import LOG_PROCESSORS
from mmengine.runner import LogProcessor


@LOG_PROCESSORS.register_module()
class ProgressLogProcessor(LogProcessor):
    """mmengine's numbers (they go to scalars.json as ever) in a line for people."""

    def get_log_after_iter(self, runner: Any, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        tag, _ = super().get_log_after_iter(runner, batch_idx, mode)
        loader = getattr(runner, f"{mode}_dataloader")
        words = [f"{mode:5}"]
        if mode == "train":
            words.append(f"epoch {runner.epoch + 1:>{len(str(runner.max_epochs))}}/{runner.max_epochs}")
        words.append(f"iter {batch_idx + 1:>{len(str(len(loader)))}}/{len(loader)}")
        words += [f"{name} {value:.4f}" for name, value in tag.items() if mode == "train" and "loss" in name]
        if "lr" in tag:
            words.append(f"lr {tag['lr']:.2e}")
        if tag.get("time"):
            words.append(f"{(loader.batch_size or 1) * get_world_size() / tag['time']:.0f} images/s")
        if "memory" in tag:
            words.append(f"{tag['memory']} MiB")
        if "eta" in runner.message_hub.runtime_info:
            words.append(f"eta {datetime.timedelta(seconds=int(runner.message_hub.get_info('eta')))}")
        return tag, "  ".join(words)

    def get_log_after_epoch(
        self, runner: Any, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        tag, _ = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        words = [f"{mode:5}"]
        if mode == "val":
            words.append(f"epoch {runner.epoch:>{len(str(runner.max_epochs))}}/{runner.max_epochs}")
        words += [
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in tag.items()
            if name not in ("time", "data_time")
        ]
        return tag, "  ".join(words)
