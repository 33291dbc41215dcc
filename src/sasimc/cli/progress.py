"""What a command is doing, on standard error: a line that changes on a terminal; elsewhere plain lines, from the third second on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

__all__ = ["Show", "counted", "progress"]

FIRST_S: Final = 2.0
"""What takes less says nothing where it cannot be wiped out again."""
EVERY_S: Final = 5.0
"""After that a plain line at most this often."""


class Show(Protocol):
    """Say what is being done now, and how much of it is done, 0 to 1, where that is known."""

    def __call__(self, text: str, done: float | None = None) -> None: ...


@contextmanager
def progress(what: str) -> Iterator[Show]:
    """Show ``what`` is being done until the block ends; call the result with what is being done now."""
    with _bar(what) if sys.stderr.isatty() else _lines(what) as show:
        yield show


@contextmanager
def _bar(what: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)

        def show(text: str, done: float | None = None) -> None:
            if done is not None and len(shown.columns) == 2:
                shown.columns = (*shown.columns, BarColumn(bar_width=24))
            shown.update(task, description=text, total=None if done is None else 1.0, completed=done or 0.0)

        yield show


@contextmanager
def _lines(what: str) -> Iterator[Show]:
    current, due = what, 0.0

    def announce() -> None:
        nonlocal due
        print(current, file=sys.stderr, flush=True)
        due = time.monotonic() + EVERY_S

    first = threading.Timer(FIRST_S, announce)
    first.daemon = True
    first.start()

    def show(text: str, done: float | None = None) -> None:
        nonlocal current
        current = text
        if due and time.monotonic() >= due:
            announce()

    try:
        yield show
    finally:
        first.cancel()


def counted(show: Show) -> Callable[[str, int, int], None]:
    """For what calls back with ``(what, done, total)``."""
    return lambda what, done, total: show(f"{what} ({done + 1} of {total})", done / total)
