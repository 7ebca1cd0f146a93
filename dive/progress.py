"""What a long command prints while it runs, always on stderr.

On a terminal it prints a bar with the time left, elsewhere (in a log file) a plain line from time to time.
With `--quiet` it prints only warnings.
"""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dive.printable import printable
from dive.world import this_world

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_EVERY_SECONDS = 15.0
LINES_OF_PACE = 5  # the time left is estimated from the last lines only, so that it recovers after a pause


class Progress:
    """Notes, warnings and bars of one command. Of several processes only the first prints any."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console: Console | None = None

    def note(self, text: str) -> None:
        """Print a line of information, unless `quiet`."""
        if not self.quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """Print a line that the user should not miss, even if `quiet`."""
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        if not this_world().first:
            return
        text = printable(text)
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0) -> Iterator["Bar"]:
        """Show a bar of `total` units, of which `done` are done already."""
        what = printable(what)
        if self.quiet or not this_world().first:
            yield Bar()
        elif sys.stderr.isatty():
            yield from self._rich_bar(what, total, done)
        else:
            yield _LineBar(self, what, total, done)

    def _rich_bar(self, what: str, total: int, done: int) -> Iterator["Bar"]:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        ]
        with RichProgress(*columns, console=Console(stderr=True), expand=True) as rich:
            self._console = rich.console
            try:
                yield _RichBar(rich, rich.add_task(what, total=total, completed=done, status=""))
            finally:
                self._console = None


class Bar:
    """A bar that shows nothing."""

    def advance(self, by: int = 1, status: str = "") -> None:
        """Count `by` more units as done. `status` is a text shown with the bar, for example the loss."""


class _RichBar(Bar):
    def __init__(self, rich: "RichProgress", task: "TaskID") -> None:
        self._rich, self._task = rich, task

    def advance(self, by: int = 1, status: str = "") -> None:
        self._rich.update(self._task, advance=by, status=printable(status))


class _LineBar(Bar):
    def __init__(self, progress: Progress, what: str, total: int, done: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done, self._last = done, time.monotonic()
        self._pace = deque([(self._last, done)], maxlen=LINES_OF_PACE)  # time and units done, at each line

    def advance(self, by: int = 1, status: str = "") -> None:
        self._done += by
        now = time.monotonic()
        if now - self._last < LINE_EVERY_SECONDS and self._done < self._total:
            return
        self._last = now
        then, before = self._pace[0]
        rate = (now - then) / max(self._done - before, 1)
        self._pace.append((now, self._done))
        left = duration(rate * (self._total - self._done))
        parts = [f"{self._what}: {self._done / self._total:4.0%}", status, f"{left} left"]
        self._progress.note(" · ".join(part for part in parts if part))


def duration(seconds: float) -> str:
    """A duration as people write it: 48 s, 12 min, 1 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


SILENT = Progress(quiet=True)  # prints only warnings
