"""mmengine's loops, with an epoch that can be gone on with in its middle, and fp16 evaluation only where it is fp16."""

from __future__ import annotations

from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import TestLoop as _TestLoop
from mmengine.runner import ValLoop as _ValLoop

from visionsparse.registry import LOOPS


@LOOPS.register_module()
class EpochBasedTrainLoop(_EpochBasedTrainLoop):
    """mmengine's loop; after a resume the sampler starts behind the samples that are done, without reading them."""

    def run_epoch(self) -> None:
        """The rest of the current epoch."""
        batches_done = self._iter - self._epoch * len(self.dataloader)
        sampler = self.dataloader.sampler
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        if batches_done:
            sampler.start = batches_done * self.dataloader.batch_size * get_world_size()
        for batch_index, data_batch in enumerate(self.dataloader, start=batches_done):
            self.run_iter(batch_index, data_batch)
        if batches_done:
            sampler.start = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class ValLoop(_ValLoop):
    """mmengine's loop.

    Args:
        fp16: compute in float16 by autocast, as many accuracies were published; on a CPU in float32, which is said.
            mmengine would quietly take bfloat16 there, of a tenth of float16's precision.
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, _usable_fp16(runner, fp16))


@LOOPS.register_module()
class TestLoop(_TestLoop):
    """mmengine's loop; `fp16` as in `ValLoop`."""

    __test__ = False  # no test class of pytest

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, _usable_fp16(runner, fp16))


def _usable_fp16(runner: Any, fp16: bool) -> bool:
    if fp16 and runner.device.type == "cpu":
        runner.logger.info("evaluating in float32: float16, which the config asks for, needs a GPU")
        return False
    return fp16
