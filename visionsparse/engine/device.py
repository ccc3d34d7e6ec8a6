"""Where a run happens: the device that was asked for, and the processes that torchrun started."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from visionsparse.errors import ConfigError


def choose_device(name: str | None = None) -> torch.device:
    """The device of that name; under torchrun `cuda` is the GPU of this process.

    Args:
        name: "cpu", "cuda", "cuda:1", or "auto" (the default): a GPU where there is one.

    Raises:
        ConfigError: not a device, or no such GPU here.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(str(name))
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: expected cpu, cuda, cuda:NUMBER or auto.")
    if device.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch {torch.__version__} sees no GPU here. Use --device cpu.")
    number = local_rank if device.index is None or "LOCAL_RANK" in os.environ else device.index
    if number >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: GPU {number} does not exist, there are {torch.cuda.device_count()}.")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


_LET_GO = 0.2  # seconds


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started; without torchrun it does nothing.

    mmengine would join them itself, but over NCCL only.
    """
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        yield
        return
    store, rank, world_size = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # torchrun keeps its store when it starts the processes again: without a prefix they would call the dead ones.
        # On several machines the counts may differ, and processes wait for each other for ever: see docs/scale.md.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
        # A thread of gloo's lets go of a finished collective's tensors a moment later, and takes Python's lock for it;
        # if the interpreter is going down by then the process ends with "terminate called without an active exception".
        if backend == "gloo":
            time.sleep(_LET_GO)
