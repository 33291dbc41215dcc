"""Tables as lines of text that fit a width: a number, a name or a number and its unit is never broken."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

__all__ = ["Table", "wrapped"]

_NARROWEST_PROSE = 24
_KEPT = "\u00a0"
"""Stands for a space at which no line ends."""


def wrapped(text: str, width: int | None, first: str = "", hang: str | None = None) -> list[str]:
    """Lines of at most ``width`` characters (None: one line), broken between words, not between a number and its unit. ``first`` begins
    the first line, ``hang`` (default: as many blanks) the others. A word longer than the line stands alone and sticks out."""
    hang = " " * len(first) if hang is None else hang
    if width is None or len(first) + len(text) <= width:
        return [first + text]
    kept = re.sub(r"(?<=\d) (?=[A-Za-zµΩ%][A-Za-z/²^0-9-]{0,6}(?![\w.]))|(?<=\d x) (?=\d)", _KEPT, text)
    lines = textwrap.wrap(
        kept, max(1, width), initial_indent=first, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_KEPT, " ") for line in lines] or [first.rstrip()]


@dataclass(frozen=True)
class Table:
    """A heading, column names and rows of cells. ``left``: columns with text; the others hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: tuple[int, ...] = (0,)

    def lines(self, width: int | None = None) -> list[str]:
        """The table as lines of at most ``width`` characters (None: as wide as it needs).

        Where the columns are too wide, text in the last column goes on in lines of its own; where that is not enough, every row becomes a block:
        its first cell, and below it the others with the names of their columns.
        """
        title = wrapped(self.title, width) if self.title else []
        indent = "  " if title else ""
        widths = [max(len(row[i]) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]
        before = len(indent) + sum(w + 2 for w in widths[:-1])
        room = None if width is None else width - before
        if room is None or widths[-1] <= room:
            return [*title, *self._columns(indent, widths, None)]
        longest = max((len(word) for row in self.rows for word in row[-1].split()), default=0)
        if len(widths) - 1 in self.left and room >= max(_NARROWEST_PROSE, longest, len(self.columns[-1])):
            return [*title, *self._columns(indent, widths, room)]
        return [*title, *(line for row in self.rows for line in self._block(row, indent, width or 0))]

    def _columns(self, indent: str, widths: list[int], room: int | None) -> list[str]:
        """``room``: width of the last column, None: as wide as it is."""
        out = []
        for row in (self.columns, *self.rows):
            cells = [c.ljust(w) if i in self.left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            if room is None:
                out.append((indent + "  ".join(cells)).rstrip())
            else:
                head = indent + "".join(cell + "  " for cell in cells[:-1])
                out += [line.rstrip() for line in wrapped(row[-1], len(head) + room, head)]
        return out

    def _block(self, row: tuple[str, ...], indent: str, width: int) -> list[str]:
        out, inner, line = wrapped(row[0], width, indent), indent + "    ", ""
        for name, cell in zip(self.columns[1:], row[1:], strict=True):
            if not cell:
                continue
            item = f"{name}: {cell}" if name else cell
            if line and len(line) + 2 + len(item) <= width:
                line += "  " + item
                continue
            if line:
                out.append(line)
            line = inner + item
            if len(line) > width:
                *full, line = wrapped(item, width, inner, inner + "  ")
                out += full
        return [*out, line] if line else out
