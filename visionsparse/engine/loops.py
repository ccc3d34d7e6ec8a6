"""An epoch loop that goes on in the middle of an epoch: mmengine's starts the epoch again and overruns."""

from __future__ import annotations

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop

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
