"""The order of an epoch: a function of (seed, epoch), sharded over the processes, resumable in the middle.

Evaluation needs no epochs: `FixedBatches` cuts the data set in its own order.

The sampler yields keys (index, epoch, repeat) instead of bare indices. A data set seeds each sample from its key, so
workers, persistent ones included, need not be told the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from visionsparse.errors import ConfigError
from visionsparse.registry import DATA_SAMPLERS


class SampleKey(NamedTuple):
    """Which sample: its index in the data set, the epoch, and which of the epoch's repeats of that index."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    epoch: int = 0
    repeat: int = 0


@DATA_SAMPLERS.register_module()
class EpochSampler(Sampler[SampleKey]):
    """Yields this process's share of the epoch's keys.

    All processes make the same global order and take every world_size-th key of it, so the first k global batches
    cover the same samples whatever the number of processes.

    Args:
        dataset: anything with a length.
        shuffle: a new permutation each epoch; else the data set's own order, in every epoch.
        seed: of the permutation; the Runner passes its own.
        repeats: repeated augmentation (arXiv 1901.09335): every chosen index comes `repeats` times in a row, with
            its own repeat number and so its own augmentation. An epoch keeps the length of the data set, so it holds
            1/repeats of the images, others each epoch when shuffled.
        round_up: start again from the epoch's first keys until every process has as many; else some have one fewer.
            For evaluation set it to False: a key that came twice would count twice.

    Attributes:
        start: number of keys, over all processes, that this epoch has already used up. Iteration begins there.
            Set it after `set_epoch` to resume in the middle; it goes back to 0 when the epoch changes.
    """

    def __init__(
        self, dataset: Sized, shuffle: bool = True, seed: int | None = 0, repeats: int = 1, round_up: bool = True
    ) -> None:
        if repeats < 1:
            raise ConfigError(f"sampler.repeats: got {repeats}, expected 1 or more.")
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.repeats = repeats
        self.round_up = round_up
        self.rank, self.world_size = get_dist_info()
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of `epoch`. The same epoch again keeps `start`, so hooks may call it freely."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.start = 0

    def __iter__(self) -> Iterator[SampleKey]:
        indices, repeats = self._order()
        places = np.arange(len(indices))
        if self.round_up:
            places = np.resize(places, -(-len(places) // self.world_size) * self.world_size)
        for place in places[self.start :][self.rank :: self.world_size]:
            yield SampleKey(int(indices[place]), self.epoch, int(repeats[place]))

    def __len__(self) -> int:
        """Keys of this process in a whole epoch, whatever `start` is: loops divide iteration numbers by it."""
        if self.round_up:
            return -(-len(self.dataset) // self.world_size)
        return len(range(self.rank, len(self.dataset), self.world_size))

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """(index, repeat) of every place of this epoch's global order."""
        size = len(self.dataset)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(size) if self.shuffle else np.arange(size)
        place = np.arange(size)
        return order[place // self.repeats], place % self.repeats


@DATA_SAMPLERS.register_module()
class FixedBatches(Sampler[list[int]]):
    """Batch n is samples n * batch_size and on, in the data set's own order, whoever computes it.

    The same samples in batches of other sizes give other last bits, so a result that does not depend on the number of
    processes needs batches that don't. Each process takes every world_size-th batch.

    Args:
        sampler: only its `dataset` is used.
        batch_size: samples of a batch; the last one has the rest.

    Attributes:
        numbers: the batches of this process. Set it to compute others.
    """

    def __init__(self, sampler: Any, batch_size: int) -> None:
        self.num_samples = len(sampler.dataset)
        self.batch_size = batch_size
        rank, world_size = get_dist_info()
        self.numbers: Sequence[int] = range(rank, -(-self.num_samples // batch_size), world_size)

    def __iter__(self) -> Iterator[list[int]]:
        for number in self.numbers:
            start = int(number) * self.batch_size
            yield list(range(start, min(start + self.batch_size, self.num_samples)))

    def __len__(self) -> int:
        return len(self.numbers)
