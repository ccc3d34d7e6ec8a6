"""How far a measurement is: a bar with the time left in a terminal, a line a group elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator

Step = Callable[[str, float], None]  # the group at hand, and its share that is done (1 ends it)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Step]:
    """Tells on stderr of `total` groups."""
    if sys.stderr.isatty():
        with _bar(total) as step:
            yield step
    else:
        yield _lines(total)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("eta"), TimeRemainingColumn())
    shown = (*columns, TextColumn("{task.description}"))
    # No thread of its own: it would take time from what is timed, and data-loading processes are forked beside it.
    with Progress(*shown, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=total)
        finished = 0

        def step(name: str, share: float) -> None:
            nonlocal finished
            bar.update(task, description=name, completed=finished + share, refresh=True)
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
