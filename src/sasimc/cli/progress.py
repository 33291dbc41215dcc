"""What a command is doing, on standard error: a line that changes on a terminal; elsewhere plain lines, from the third second on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["counted", "progress"]

FIRST_S: Final = 2.0
"""What takes less says nothing where it cannot be wiped out again."""
EVERY_S: Final = 10.0
"""After that a plain line at most this often."""


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Show ``what`` is being done until the block ends; call the result with what is being done now."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(what) as status:
            yield lambda text: status.update(text)
        return
    current, due = what, 0.0

    def announce() -> None:
        nonlocal due
        print(current, file=sys.stderr, flush=True)
        due = time.monotonic() + EVERY_S

    first = threading.Timer(FIRST_S, announce)
    first.daemon = True
    first.start()

    def show(text: str) -> None:
        nonlocal current
        current = text
        if due and time.monotonic() >= due:
            announce()

    try:
        yield show
    finally:
        first.cancel()


def counted(show: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """For what calls back with ``(what, done, total)``."""
    return lambda what, done, total: show(f"{what} ({done + 1} of {total})")
