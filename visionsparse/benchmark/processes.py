"""A process for each number of threads, started with that number.

torch.set_num_threads would do for one of them only: after it MKL opens a parallel region for every product inside a
parallel operator, and torch's fused attention over small tiles takes twice as long on two threads (392 tiles of 16
queries and 64 keys, 4 heads: 4.4 ms instead of 2.6, and 5.0 on one). A process that is started with OMP_NUM_THREADS, or
with none, does not.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from visionsparse.errors import UserError


def with_threads(number: int, produce: Callable[..., Iterable[Any]], *args: Any) -> Iterator[Any]:
    """What `produce(*args)` gives where torch has that many threads: here if it has, else in a process of its own.

    Args:
        produce: a function of a module; what it takes, gives and raises can be pickled.

    Raises:
        UserError: that process came to an end of its own.
    """
    if number == torch.get_num_threads():
        yield from produce(*args)
        return
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, produce, args))
    with _environment(OMP_NUM_THREADS=str(number)):
        process.start()
    sender.close()
    try:
        with contextlib.suppress(EOFError):  # all is said
            while True:
                found = receiver.recv()
                if isinstance(found, Exception):
                    raise found
                yield found
        process.join()
        if process.exitcode:
            raise UserError(
                f"The process that measured with --threads {number} ended with exit code {process.exitcode}"
                f"{', killed, perhaps for its memory' if process.exitcode == -9 else ''}: measure less at a time."
            )
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """torch's threads inside the block, in this process: for what is not compared with other times."""
    before = torch.get_num_threads()
    if number == before:  # setting them anew would not leave all as it was
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _send(sender: Connection, produce: Callable[..., Iterable[Any]], args: tuple[Any, ...]) -> None:
    try:
        for found in produce(*args):
            sender.send(found)
    except Exception as error:
        sender.send(error)
    except KeyboardInterrupt:  # the process that waits for this one tells of it
        pass


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
