"""The terminal interface: code, tensors, sub-arrays, stack, counters and a prompt, on 80 x 24 characters or more."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, RichLog, Static

from sasimc.debug import look
from sasimc.debug.difference import FirstDifference
from sasimc.debug.prompt import Prompt
from sasimc.debug.session import Session
from sasimc.debug.stops import Breakpoint, Stop
from sasimc.debug.terminal import panes
from sasimc.debug.terminal.code import Code
from sasimc.isa.errors import SasError

__all__ = ["Terminal"]

_KEYS = """\
[b]forwards          backwards[/b]
s  step           S  step back
n  over a loop    N  back over a loop
f  finish loop    F  back to its beginning
c  run            C  run back
h  to the cursor  r  to the beginning

[b]looking[/b]
↑ ↓ PgUp PgDn     move the cursor;  .  to where the machine stands
← →  Shift ← →    scroll the code, the pane
/                 search the code
1 2 3 4           tensors, array, where, counts
\\[ ]  x            other sub-array; weights or bits

b  breakpoint at the cursor     :  a command (:help lists them)
Esc  stop what runs             q  quit

● breakpoint, ○ disabled; white: changed since the last stop"""


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        """The page."""
        yield Static(_KEYS, id="help")


class Terminal(App[None]):
    """A session on the screen. What runs for long runs beside it and can be stopped."""

    CSS_PATH = Path(__file__).with_name("style.tcss")
    TITLE = "sasdbg"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "step", "step"),
        Binding("S", "step(True)", "back"),
        Binding("n", "over", "next"),
        Binding("N", "over(True)", "next back", show=False),
        Binding("f", "out", "finish"),
        Binding("F", "out(True)", "finish back", show=False),
        Binding("c", "resume", "run"),
        Binding("C", "resume(True)", "run back"),
        Binding("h", "here", "to cursor", show=False),
        Binding("r", "restart", "restart", show=False),
        Binding("b", "break", "break"),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move(-12)", show=False),
        Binding("pagedown", "move(12)", show=False),
        Binding("left", "scroll_code(-8)", show=False),
        Binding("right", "scroll_code(8)", show=False),
        Binding("shift+left", "scroll_pane(-8)", show=False),
        Binding("shift+right", "scroll_pane(8)", show=False),
        Binding("full_stop", "follow", show=False),
        Binding("1", "pane(1)", show=False),
        Binding("2", "pane(2)", show=False),
        Binding("3", "pane(3)", show=False),
        Binding("4", "pane(4)", show=False),
        Binding("left_square_bracket", "array(-1)", show=False),
        Binding("right_square_bracket", "array(1)", show=False),
        Binding("x", "bits", show=False),
        Binding("colon", "prompt", "command", key_display=":"),
        Binding("slash", "search", show=False),
        Binding("escape", "stop", show=False),
        Binding("question_mark", "help", "keys", key_display="?"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, session: Session, compare: Callable[[str], FirstDifference | None] | None = None) -> None:
        super().__init__()
        self.session = session
        self.talk = Prompt(session, self.say, compare)
        self.shown = 1
        self.array: int | None = None
        self.bits = False
        self.busy = False
        self._cells: dict[int, npt.NDArray[np.int8]] = {}
        self._searching = False

    # ------------------------------------------------------------------------------------------------------------ screen

    def compose(self) -> ComposeResult:
        """Title, code and panes, log, prompt, keys."""
        yield Static(id="title")
        with Horizontal(id="middle"):
            yield Code(self.session.program, id="code")
            with Vertical(id="right"):
                yield Static(id="tabs")
                with VerticalScroll(id="pane"):
                    yield Static(id="content")
        yield RichLog(id="log", wrap=True, max_lines=2000)
        yield Input(id="input", placeholder=": command    / search    ? keys", compact=True)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Stand where the session stands."""
        self.set_interval(0.25, self._tick)
        self.query_one(Code).focus()
        self.draw()

    def on_resize(self) -> None:
        """More room shows more."""
        self.set_class(self.size.width >= 120, "wide")
        self.set_class(self.size.height >= 40, "tall")
        self.call_after_refresh(self.draw)

    def say(self, text: str) -> None:
        """A line of the log; from any thread."""
        if self._thread_id != threading.get_ident():
            self.call_from_thread(self.say, text)
            return
        self.query_one("#log", RichLog).write(Text(text.rstrip("\n")))

    def draw(self) -> None:
        """Everything, as the session stands now."""
        s = self.session
        code = self.query_one(Code)
        code.marks = {}
        for p in s.points.values():
            if isinstance(p, Breakpoint):
                code.marks |= dict.fromkeys(p.pcs, p.enabled)
        code.pc = s.pc
        code.refresh()
        self._title()
        tabs = Text(no_wrap=True)
        for number, name in enumerate(panes.PANES, 1):
            tabs.append(f" {number} {name}", "reverse bold" if number == self.shown else "")
        self.query_one("#tabs", Static).update(tabs)
        self._content()

    def _title(self, running: str = "") -> None:
        p = self.session.position
        name = Path(self.session.program.source).name
        what = running or f"{p.title}, {p.phase}   time {p.time:,}   {p.cycles:,} cycles"
        if not running and self.session.pc is None:
            what = f"ended   {what}"
        self.query_one("#title", Static).update(Text(f" {name}   {what}", no_wrap=True, overflow="ellipsis"))

    def _content(self) -> None:
        s, content = self.session, self.query_one("#content", Static)
        width = max(20, self.query_one("#pane").size.width - 2)
        if self.shown == 1:
            text = panes.tensors(s, width, self.talk.displays)
        elif self.shown == 2:
            index = panes.array_of(s) if self.array is None else self.array
            text = panes.arrays(s, width, index, self.bits, self._cells.get(index))
        elif self.shown == 3:
            text = panes.where(s, width)
        else:
            text = panes.counters(s, width)
        text.no_wrap = True
        content.update(text)

    def _tick(self) -> None:
        if self.busy:
            self._title(f"running, time {self.session.history.time:,}; Esc stops it")

    # ------------------------------------------------------------------------------------------------------------ running

    def _go(self, do: Callable[[], Stop | None]) -> None:
        """Execute beside the screen; what it says goes to the log."""
        if self.busy:
            return
        self.busy = True
        index = panes.array_of(self.session) if self.array is None else self.array
        self._cells = {index: look.subarray(self.session, index).weights}

        def work() -> None:
            try:
                stop = do()
                lines = list(self.talk.stopped(stop)) if stop is not None else []
            except SasError as exc:
                lines = str(exc).split("\n")
            self.call_from_thread(self._done, lines)

        self.run_worker(work, thread=True)

    def _done(self, lines: list[str]) -> None:
        self.busy = False
        for line in lines:
            self.say(re.sub(r"  +;", "  ;", line))
        if self.talk.quit:
            self.exit()
            return
        self.draw()

    def action_step(self, back: bool = False) -> None:
        """An instruction."""
        self._go(lambda: self.session.step(backwards=back))

    def action_over(self, back: bool = False) -> None:
        """A hardware loop whole."""
        self._go(lambda: self.session.over(backwards=back))

    def action_out(self, back: bool = False) -> None:
        """Out of the hardware loop."""
        self._go(lambda: self.session.out(backwards=back))

    def action_resume(self, back: bool = False) -> None:
        """To the next stop."""
        self._go(lambda: self.session.resume(backwards=back))

    def action_restart(self) -> None:
        """To the beginning."""
        self._go(self.session.restart)

    def action_here(self) -> None:
        """To the cursor."""
        index = self.query_one(Code).chosen

        def run() -> Stop:
            self.session.add_breakpoint(f"*{index}", temporary=True)
            return self.session.resume()

        if index >= 0:
            self._go(run)

    def action_stop(self) -> None:
        """Stop what runs; leave the prompt."""
        if self.busy:
            self.session.interrupt()
        else:
            self._searching = False
            self.query_one(Code).focus()

    # --------------------------------------------------------------------------------------------------------- breakpoints

    def action_break(self) -> None:
        """A breakpoint at the cursor, or none."""
        index = self.query_one(Code).chosen
        if self.busy or index < 0:
            return
        here = [p for p in self.session.points.values() if isinstance(p, Breakpoint) and index in p.pcs]
        for p in here:
            self.session.delete(p.number)
        if not here:
            self.session.add_breakpoint(f"*{index}")
        self.draw()

    # -------------------------------------------------------------------------------------------------------------- moving

    def action_move(self, by: int) -> None:
        """Move the cursor."""
        self.query_one(Code).move(by)

    def action_scroll_code(self, by: int) -> None:
        """See the rest of long lines."""
        self.query_one(Code).scroll_relative(x=by, animate=False)

    def action_scroll_pane(self, by: int) -> None:
        """See the rest of a pane."""
        self.query_one("#pane").scroll_relative(x=by, animate=False)

    def action_follow(self) -> None:
        """The cursor where the machine stands."""
        code = self.query_one(Code)
        if self.session.pc is not None:
            code.cursor = code.row_of.get(self.session.pc, code.cursor)

    def action_pane(self, number: int) -> None:
        """Another pane."""
        self.shown = number
        if not self.busy:
            self.draw()

    def action_array(self, by: int) -> None:
        """The next sub-array that holds something."""
        held = sorted({t.subarray for m in self.session.program.matrices.values() for t in m.tiles})
        if self.busy or not held:
            return
        now = panes.array_of(self.session) if self.array is None else self.array
        at = held.index(now) if now in held else 0
        self.array, self.shown = held[(at + by) % len(held)], 2
        self.draw()

    def action_bits(self) -> None:
        """Weights, or their bits."""
        self.bits = not self.bits
        self.action_pane(2)

    # -------------------------------------------------------------------------------------------------------------- prompt

    def action_prompt(self) -> None:
        """A command."""
        self._searching = False
        self.query_one(Input).focus()

    def action_search(self) -> None:
        """A text to search for."""
        self._searching = True
        self.query_one(Input).focus()

    def action_help(self) -> None:
        """The keys."""
        self.push_screen(Help())

    def on_key(self, event: Key) -> None:
        """Esc leaves the prompt also while it has the focus."""
        if event.key == "escape" and self.query_one(Input).has_focus:
            self.query_one(Input).value = ""
            self.action_stop()
            event.stop()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Execute a line of the prompt, or search."""
        line, event.input.value = event.value.strip(), ""
        self.query_one(Code).focus()
        if self._searching:
            self._searching = False
            if not self.query_one(Code).find(line):
                self.say(f"{line!r} is nowhere in the code")
            return
        if self.busy:
            return
        self.say(f"(sasdbg) {line}")

        self._go(lambda: self.talk.execute(line))
