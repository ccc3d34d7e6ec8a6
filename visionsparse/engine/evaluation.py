"""Evaluation whose numbers depend neither on the number of processes nor on how often it was killed.

The data set is cut into fixed batches in its own order. mmengine deals out single samples, so that batches differ with
the number of processes, and collects all predictions in one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.runner import TestLoop as _TestLoop
from mmengine.runner import ValLoop as _ValLoop
from mmengine.runner.amp import autocast

from visionsparse.parts import Parts, digest, weights_digest
from visionsparse.registry import LOOPS


@LOOPS.register_module()
class ValLoop(_ValLoop):
    """mmengine's loop over fixed batches; the metrics sum their counts over the processes.

    Args:
        fp16: compute in float16 by autocast, as many accuracies were published; on a CPU in float32, which is said.
            mmengine would quietly take bfloat16 there, of a tenth of float16's precision.
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, _in_fixed_batches(dataloader), evaluator, _usable_fp16(runner, fp16))


@LOOPS.register_module()
class TestLoop(_TestLoop):
    """mmengine's loop over fixed batches; where the runner has a `parts_folder`, it keeps what is finished there.

    That needs one metric with `rows` (of a batch's predictions, as columns) and `add` (rows to the counts).
    `fp16` is as in `ValLoop`.
    """

    __test__ = False  # no test class of pytest

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, _in_fixed_batches(dataloader), evaluator, _usable_fp16(runner, fp16))

    def run(self) -> dict[str, float]:
        """The metrics, equal on all processes."""
        folder, metrics = self.runner.parts_folder, self.evaluator.metrics
        if folder is None:
            return super().run()
        if len(metrics) != 1 or not hasattr(metrics[0], "rows"):
            self.runner.logger.info("test_evaluator has no rows to keep: if this is stopped, it has to start again")
            return super().run()
        return self._run_in_parts(metrics[0], folder)

    def _run_in_parts(self, metric: Any, folder: Path) -> dict[str, float]:
        sampler = self.dataloader.batch_sampler
        parts = Parts(folder, sampler.num_samples, sampler.batch_size)
        todo = parts.begin(self._job())
        if parts.num_finished:
            self.runner.logger.info(parts)
        sampler.numbers = np.array([number for part in todo for number in parts.batches(part)], dtype=np.int64)
        self.runner.call_hook("before_test")
        self.runner.call_hook("before_test_epoch")
        self.runner.model.eval()
        batches = enumerate(self.dataloader)
        for part in todo:
            parts.write(part, [self._rows(metric, *next(batches)) for _ in parts.batches(part)])
        parts.wait()
        if get_rank() == 0:
            for rows in parts.read():
                metric.add({name: rows[name].to_numpy(zero_copy_only=False) for name in rows.schema.names})
        metrics = self.evaluator.evaluate(sampler.num_samples)
        self.runner.call_hook("after_test_epoch", metrics=metrics)
        self.runner.call_hook("after_test")
        return metrics

    @torch.no_grad()
    def _rows(self, metric: Any, index: int, data_batch: Any) -> dict[str, np.ndarray]:
        self.runner.call_hook("before_test_iter", batch_idx=index, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            outputs = self.runner.model.test_step(data_batch)
        self.runner.call_hook("after_test_iter", batch_idx=index, data_batch=data_batch, outputs=outputs)
        return metric.rows(outputs)

    def _job(self) -> dict[str, str]:
        """What changes the rows."""
        config = self.runner.cfg
        parts = {key: config.get(key) for key in ("model", "data_preprocessor", "test_cfg", "test_evaluator")}
        loader = {key: value for key, value in config.test_dataloader.items() if key not in _ONLY_SPEED}
        dataset = self.dataloader.dataset
        return {
            "config": digest([repr(_sorted({**parts, "test_dataloader": loader}))]),
            "checkpoint": weights_digest(self.runner.plain_model.state_dict()),
            "data": dataset.digest() if hasattr(dataset, "digest") else f"{len(dataset)} samples",
            "device": self.runner.device.type,
        }


_ONLY_SPEED = ("num_workers", "prefetch_factor", "persistent_workers", "pin_memory")


def _sorted(value: Any) -> Any:
    """The same text for the same config, whatever the order of its keys."""
    if isinstance(value, Mapping):
        return sorted((key, _sorted(item)) for key, item in value.items())
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value


def _in_fixed_batches(dataloader: Any) -> Any:
    """The loader's config with `FixedBatches`; a loader that is built already stays as it is."""
    if not isinstance(dataloader, Mapping) or "batch_sampler" in dataloader:
        return dataloader
    fixed = {key: value for key, value in dataloader.items() if key not in ("drop_last", "shuffle")}
    return {**fixed, "batch_sampler": dict(type="FixedBatches")}


def _usable_fp16(runner: Any, fp16: bool) -> bool:
    if fp16 and runner.device.type == "cpu":
        runner.logger.info("evaluating in float32: float16, which the config asks for, needs a GPU")
        return False
    return fp16
