"""The code pane: the section .code as the printer writes it, however long; where the machine stands, breakpoints, a cursor of its own."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from sasimc.isa.program import Program
from sasimc.isa.text.printer import code_lines
from sasimc.isa.text.syntax import tokens_of

__all__ = ["Code"]

_MARGIN = 3


class Code(ScrollView, can_focus=True):
    """Lines of a program; ``pc``: next instruction (None: ended), ``cursor``: the chosen line."""

    DEFAULT_CSS = "Code { scrollbar-size-horizontal: 0; scrollbar-size-vertical: 1; }"

    pc: reactive[int | None] = reactive(None)
    cursor: reactive[int] = reactive(0)

    def __init__(self, program: Program, *, id: str) -> None:
        super().__init__(id=id)
        self.rows = [(text, index) for text, index in code_lines(program) if text]
        self.row_of = {index: i for i, (_, index) in enumerate(self.rows) if index >= 0}
        self.marks: dict[int, bool] = {}
        self.virtual_size = Size(max((len(text) for text, _ in self.rows), default=0) + _MARGIN, len(self.rows))

    @property
    def chosen(self) -> int:
        """The instruction on the cursor's line, or the next one after it."""
        return next((index for _, index in self.rows[self.cursor :] if index >= 0), -1)

    def watch_pc(self, old: int | None, pc: int | None) -> None:
        """Follow the machine."""
        if pc is not None and pc in self.row_of:
            self.cursor = self.row_of[pc]
        self.refresh()

    def watch_cursor(self) -> None:
        """Keep the cursor in sight."""
        height = self.size.height
        if height and not self.scroll_offset.y + 1 <= self.cursor < self.scroll_offset.y + height - 2:
            self.scroll_to(y=max(0, self.cursor - height // 3), animate=False)
        self.refresh()

    def move(self, by: int) -> None:
        """Move the cursor by lines."""
        self.cursor = max(0, min(len(self.rows) - 1, self.cursor + by))

    def find(self, text: str) -> bool:
        """Put the cursor on the next line that contains a text; False: there is none."""
        n = len(self.rows)
        for step in range(1, n + 1):
            at = (self.cursor + step) % n
            if text in self.rows[at][0]:
                self.cursor = at
                return True
        return False

    def on_resize(self) -> None:
        """The size is known only now."""
        self.watch_cursor()

    def on_click(self, event: object) -> None:
        """A click chooses a line."""
        y = getattr(event, "y", 0) + self.scroll_offset.y
        if 0 <= y < len(self.rows):
            self.cursor = y

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        x0, y0 = self.scroll_offset
        width, at = self.size.width, y + y0
        plain = self.rich_style
        if at >= len(self.rows):
            return Strip.blank(width, plain)
        text, index = self.rows[at]
        here = index >= 0 and index == self.pc
        style = plain
        if at == self.cursor:
            style += self.get_component_rich_style("code--cursor")
        if here:
            style += self.get_component_rich_style("code--here")
        mark = "●" if self.marks.get(index) else "○" if index in self.marks else " "
        segments = [
            Segment(mark, style + self.get_component_rich_style("code--mark")),
            Segment("▶" if here else " ", style),
            *_coloured(text, style, self),
        ]
        strip = Strip(segments).crop(x0, x0 + width)
        return strip.extend_cell_length(width, style).crop(0, width)

    def refresh_row(self, index: int) -> None:
        """Draw the line of an instruction again."""
        if index in self.row_of:
            self.refresh(Region(0, self.row_of[index] - self.scroll_offset.y, self.size.width, 1))

    COMPONENT_CLASSES = {"code--cursor", "code--here", "code--mark", "code--name", "code--directive", "code--rows"}  # noqa: RUF012


def _coloured(text: str, style: Style, code: Code) -> list[Segment]:
    segments: list[Segment] = []
    end = 0
    for number, t in enumerate(tokens_of(text)):
        start = t.column - 1
        if start > end:
            segments.append(Segment(text[end:start], style))
        component = (
            "code--directive"
            if t.kind == "DIRECTIVE"
            else "code--name"
            if not number
            else "code--rows"
            if t.kind == "ROWS"
            else ""
        )
        segments.append(Segment(t.text, style + code.get_component_rich_style(component, partial=True) if component else style))
        end = start + len(t.text)
    return segments
