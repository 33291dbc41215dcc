"""Lines and tables as wide as where they go: the terminal, or COLUMNS; into a file or a pipe without COLUMNS as wide as they need."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, TextIO

from sasimc.evaluation.table import wrapped

if TYPE_CHECKING:
    from sasimc.evaluation.table import Table

__all__ = ["line_width", "print_tables", "say"]


def line_width() -> int | None:
    """Characters of a line of standard output, None: no limit."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(text: str = "", hang: int = 4, file: TextIO | None = None) -> None:
    """A line of output (``file`` None: standard output); where it is too long for one, it goes on indented by ``hang`` more characters."""
    words = text.lstrip(" ")
    first = text[: len(text) - len(words)]
    for line in wrapped(words, line_width(), first, first + " " * hang):
        print(line, file=file)


def print_tables(*tables: Table) -> None:
    """Print tables, an empty line between them."""
    width = line_width()
    for i, table in enumerate(tables):
        for line in ([""] if i else []) + table.lines(width):
            print(line)
