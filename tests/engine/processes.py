"""Several processes of one training, as torchrun would start them, but forked from a server that has torch imported."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from visionsparse.errors import UserError

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["visionsparse.apis", "visionsparse.engine.runner", "tests.engine.test_stopping"])


def together(world_size: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[tuple[int, str]]:
    """Runs `function` in that many processes of one process group; (exit code, the user's mistake) of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mistakes = CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_run, args=(rank, world_size, port, mistakes, function, args, kwargs))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    told = dict(mistakes.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    return [(process.exitcode, told[rank]) for rank, process in enumerate(processes)]


def _run(rank, world_size, port, mistakes, function, args, kwargs) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    mistake = ""
    try:
        function(*args, **kwargs)
    except UserError as error:
        mistake = str(error)
    except Exception:
        mistake = traceback.format_exc()
    finally:
        mistakes.put((rank, mistake))
