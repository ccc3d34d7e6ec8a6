"""A bar with speed and time left, for work that someone waits for; nothing at all in a log or a pipe.

It is drawn when it is updated and by no thread: data-loading processes are forked meanwhile, and a lock that a thread
holds at that moment would stay locked in them for ever.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_REDRAW_AFTER = 0.1  # seconds


class ProgressBar:
    """A context in which `update` draws a bar on the terminal that stderr is; what is printed goes above it.

    Args:
        total: how much there is to do.
        unit: what is counted, as in "images".
        done: how much is done already.
        is_shown: False for a process that is not to draw.
        console: draw there.
    """

    def __init__(
        self, total: int, unit: str, done: int = 0, is_shown: bool = True, console: Console | None = None
    ) -> None:
        console = console or Console(stderr=True)
        self.is_shown = is_shown and console.is_terminal
        self._unit = unit
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
            disable=not self.is_shown,
            redirect_stdout=sys.stdout.isatty(),  # else what is printed would land on the terminal, not in its file
        )
        self._task = self._bar.add_task("", total=total, completed=done, speed="")
        self._drawn_at = 0.0

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def update(self, done: float, description: str) -> None:
        """Tells how much of the total is done."""
        if not self.is_shown:
            return
        self._bar.update(self._task, completed=done)
        if time.monotonic() - self._drawn_at < _REDRAW_AFTER:
            return
        self._drawn_at = time.monotonic()
        speed = self._bar.tasks[0].speed
        shown = f"{speed:.1f} {self._unit}/s" if speed else ""
        self._bar.update(self._task, description=description, speed=shown)
        self._bar.refresh()

    def close(self) -> None:
        """Removes the bar and gives the terminal back; a second time it does nothing."""
        self._bar.stop()
