"""mmengine's loops, with an epoch that can be gone on with in its middle, and fp16 evaluation only where it is fp16."""

from __future__ import annotations

from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import TestLoop as _TestLoop
from mmengine.runner import ValLoop as _ValLoop
from torch import nn

from visionsparse.engine.checkpoint_hook import VALIDATED_KEY
from visionsparse.registry import LOOPS


@LOOPS.register_module()
class EpochBasedTrainLoop(_EpochBasedTrainLoop):
    """mmengine's loop; after a resume the sampler starts behind the samples that are done, without reading them.

    A run that was stopped between an epoch's last iteration and the end of its validation validates first.
    """

    def run(self) -> nn.Module:
        """Trains what is left to train."""
        self.runner.call_hook("before_train")
        if self._iter and self._iter == self._epoch * len(self.dataloader):
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook("after_train")
        return self.runner.model

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

    def _validate(self) -> None:
        self._decide_current_val_interval()
        is_last = self._epoch == self._max_epochs
        is_due = self._epoch >= self.val_begin and (self._epoch % self.val_interval == 0 or is_last)
        is_done = self.runner.message_hub.runtime_info.get(VALIDATED_KEY) == self._epoch
        if self.runner.val_loop is not None and is_due and not is_done:
            self.runner.val_loop.run()


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
