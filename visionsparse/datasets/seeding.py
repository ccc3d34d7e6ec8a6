"""Randomness of one sample as a function of (seed, epoch, index, repeat) and of nothing else.

Augmentation then depends neither on the number of workers nor on the order of the samples nor on where a run was
resumed. Transforms draw from the global generators of torch, numpy and random: these are seeded around each sample.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import get_worker_info


def sample_seed(seed: int, epoch: int, index: int, repeat: int) -> int:
    """A 64-bit seed; unlike keys give unrelated seeds (a sum of the four would not)."""
    key = struct.pack("<4q", seed, epoch, index, repeat)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch (CPU), numpy and random inside the block, and gives them back their states after it.

    A worker process draws for samples only, so there the states are not worth the 0.1 ms that saving them takes.
    """
    in_worker = get_worker_info() is not None
    states = None if in_worker else (torch.get_rng_state(), np.random.get_state(), random.getstate())
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        if states is not None:
            torch.set_rng_state(states[0])
            np.random.set_state(states[1])
            random.setstate(states[2])
