"""Live progress: what, how far, how fast, how long still.

A bar on stderr when that is a terminal; otherwise a plain line now and then, so that a log file stays readable. Numbers
of a run are files (metrics.jsonl), never this.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LINE_EVERY_S = 15.0  # in a log file


class Progress:
    """Position of one piece of work; made by `track`."""

    def __init__(self, label: str, total: int, unit: str, bar: Any, task: Any, done: int) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = done
        self._bar = bar
        self._task = task
        self._first = done
        self._start = self._line = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more are done; `note` says what matters now (a loss, a file name)."""
        self.done += n
        now = time.monotonic()
        speed = (self.done - self._first) / max(now - self._start, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, speed=f"{speed:,.1f} {self.unit}/s", note=note)
        elif now - self._line >= LINE_EVERY_S and self.done < self.total:
            self._line = now
            left = (self.total - self.done) / max(speed, 1e-9)
            text = f"{self.label}: {self.done}/{self.total} {self.unit}, {speed:,.1f}/s, {left:,.0f} s left {note}"
            sys.stderr.write(text.rstrip() + "\n")
            sys.stderr.flush()


@contextmanager
def track(label: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Progress]:
    """Show the progress of `total` units of work, `done` of which were done before (a resumed run)."""
    if not sys.stderr.isatty():
        yield Progress(label, total, unit, None, None, done)
        return
    # Imported here: rich costs 0.1 s, and a log file needs none of it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done, speed="", note="")
        yield Progress(label, total, unit, bar, task, done)


def say(text: str) -> None:
    """One line of news to stderr: an event, not a position."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
