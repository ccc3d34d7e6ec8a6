"""An epoch loop that goes on in the middle of an epoch: mmengine's starts the epoch again and overruns."""

from __future__ import annotations

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
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
