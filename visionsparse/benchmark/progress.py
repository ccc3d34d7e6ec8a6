"""How far a measurement is: a bar with the time left in a terminal, a line a group elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator

from visionsparse.progress import ProgressBar

Step = Callable[[str, float], None]  # the group at hand, and its share that is done (1 ends it)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Step]:
    """Tells on stderr of `total` groups."""
    if not sys.stderr.isatty():
        yield _lines(total)
        return
    with ProgressBar(total, "groups") as bar:
        finished = 0

        def step(name: str, share: float) -> None:
            nonlocal finished
            bar.update(finished + share, name)
            finished += share >= 1

        yield step


def _lines(total: int) -> Step:
    begin = time.monotonic()
    finished = 0

    def step(name: str, share: float) -> None:
        nonlocal finished
        if share < 1:
            return
        finished += 1
        passed = time.monotonic() - begin
        left = datetime.timedelta(seconds=round(passed / finished * (total - finished)))
        print(f"{finished}/{total}  {name}  {passed:.0f} s passed, eta {left}", file=sys.stderr, flush=True)

    return step
