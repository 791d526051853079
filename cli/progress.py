"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opennpe.fpga.progress import Progress, Silent

__all__ = ["Progress", "Silent", "reporter"]


class Lines:
    """A line a finished stage."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._text = ""
        self._begun = 0.0

    def stage(self, text: str, total: int) -> None:
        """Report the stage before as done."""
        self.finish()
        self._text, self._begun = text, time.perf_counter()

    def advance(self, steps: int = 1) -> None:
        """Ignored."""

    def finish(self) -> None:
        """Report the last stage as done."""
        if self._text:
            self._write(f"{self._text}: {time.perf_counter() - self._begun:.1f} s\n")
        self._text = ""


@contextmanager
def reporter(quiet: bool = False) -> Iterator[Progress]:
    """The progress that fits stderr. A job that fails reports its last stage as not done."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _bar() as progress:
            yield progress
    else:
        lines = Lines(sys.stderr.write)
        yield lines
        lines.finish()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=32),
        TextColumn("{task.completed:>6.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield _Stages(bar)


class _Stages:
    """Stages as tasks of a rich progress bar."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None

    def stage(self, text: str, total: int) -> None:
        """A new line for the stage."""
        self._task = self._bar.add_task(text, total=total)

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.advance(self._task, steps)
